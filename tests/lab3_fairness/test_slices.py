from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import slice_inputs, slice_redundancy, slices
from labs.lab3_fairness.tabular import adult_task

settled = settings(derandomize=True, deadline=None, max_examples=40)


def small(n=300, seed=0):
    """Three text columns, one number, and errors that the first column drives (synthetic)."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "a": rng.choice(["x", "y", "z"], n),
            "b": rng.choice(["u", "v"], n),
            "c": rng.choice(["p", "q", "r", "s"], n),
            "age": rng.integers(17, 90, n),
        }
    )
    errors = (rng.random(n) < np.where(table["a"] == "x", 0.4, 0.1)).astype(float)
    return table, slice_inputs.RowLoss("error", errors, np.ones(n, dtype=bool))


def by_brute_force(literals, loss, max_literals, min_rows):
    """Every conjunction, one at a time, with scipy's own tests."""
    found = {}
    for level in range(1, max_literals + 1):
        for columns in combinations(range(len(literals.columns)), level):
            for codes in product(*(range(len(literals.names[column])) for column in columns)):
                inside = loss.counted.copy()
                for column, code in zip(columns, codes):
                    inside &= literals.codes[:, column] == code
                outside = loss.counted & ~inside
                if min(inside.sum(), outside.sum()) < min_rows:
                    continue
                ours, theirs = loss.values[inside], loss.values[outside]
                if loss.binary:
                    cells = [[part.sum(), len(part) - part.sum()] for part in (ours, theirs)]
                    p_value = stats.fisher_exact(cells, alternative="greater").pvalue
                else:
                    test = stats.ttest_ind(ours, theirs, equal_var=False, alternative="greater")
                    p_value = test.pvalue
                key = tuple(zip(columns, codes))
                found[key] = (len(ours), ours.mean(), theirs.mean(), p_value)
    return found


def key_of(table, number):
    return tuple((int(c), int(v)) for c, v in table.keys[number] if c >= 0)


@pytest.mark.parametrize("kind", ["0 and 1", "real", "real with a large mean", "some rows"])
@pytest.mark.parametrize("min_rows", [5, 20])
def test_the_contingency_tables_hold_what_brute_force_finds(kind, min_rows):
    """Same slices, counts, means and p-values as one scipy test a slice, up to three literals.

    With a mean of a million the sum of squares swallows the variance unless the loss is centred.
    """
    features, loss = small()
    rng = np.random.default_rng(1)
    values, counted = loss.values, loss.counted
    if kind.startswith("real"):
        values = values + rng.normal(size=len(values)) + (1e6 if "large" in kind else 0)
    if kind == "some rows":
        counted = rng.random(len(values)) < 0.6
    loss = slice_inputs.RowLoss(kind, values, counted)
    literals = slice_inputs.bin_features(features)
    table = slices.search_slices(literals, loss, max_literals=3, min_rows=min_rows)
    expected = by_brute_force(literals, loss, 3, min_rows)
    assert {key_of(table, number) for number in range(len(table))} == set(expected)
    for number in range(len(table)):
        n, mean, rest, p_value = expected[key_of(table, number)]
        assert table.n[number] == n
        assert table.mean[number] == pytest.approx(mean)
        assert table.rest[number] == pytest.approx(rest)
        assert table.p_value[number] == pytest.approx(p_value, rel=1e-5, abs=1e-12)
        assert int((table.rows(number) & counted).sum()) == n


@settled
@given(st.integers(0, 10_000), st.integers(2, 60))
def test_every_slice_has_enough_rows_on_both_sides(seed, min_rows):
    """Support is a promise: a slice, and what it is compared with, has at least min_rows."""
    features, loss = small(seed=seed)
    table = slices.search_slices(
        slice_inputs.bin_features(features), loss, max_literals=2, min_rows=min_rows
    )
    assert (table.n >= min_rows).all()
    assert (len(features) - table.n >= min_rows).all()
    assert ((table.p_value >= 0) & (table.p_value <= 1)).all()


def test_the_driving_literal_comes_first():
    """Errors that follow a = x: that literal has the smallest p-value of all slices."""
    features, loss = small(2000)
    table = slices.search_slices(slice_inputs.bin_features(features), loss, max_literals=3)
    assert table.text(int(np.argmin(table.p_value))) == "a = x"


def test_a_column_with_one_value_makes_no_slice():
    """Everybody is in it, nobody is left to compare with, and it adds nothing to a conjunction."""
    features, loss = small()
    literals = slice_inputs.bin_features(features[["a"]].assign(same="k"))
    table = slices.search_slices(literals, loss, max_literals=2, min_rows=20)
    gain = slice_redundancy.gain_over_parents_p(table)
    texts = [table.text(number) for number in range(len(table))]
    assert "same = k" not in texts
    assert [text for text, p in zip(texts, gain) if p <= 0.05] == ["a = x", "a = y", "a = z"]


def test_a_slice_that_owes_its_effect_to_a_parent_is_redundant():
    """ "a = x and b = u" is as bad as "a = x": it repeats it. One that adds harm is kept."""
    rng = np.random.default_rng(0)
    n = 6000
    features = pd.DataFrame({"a": rng.choice(["x", "y"], n), "b": rng.choice(["u", "v"], n)})
    together = (features["a"] == "x") & (features["b"] == "u")
    for risk, kept in (
        (np.where(features["a"] == "x", 0.4, 0.1), False),
        (np.where(together, 0.4, 0.1), True),
    ):
        loss = slice_inputs.RowLoss(
            "error", (rng.random(n) < risk).astype(float), np.ones(n, dtype=bool)
        )
        table = slices.search_slices(slice_inputs.bin_features(features), loss, max_literals=2)
        gain = slice_redundancy.gain_over_parents_p(table)
        number = [table.text(each) for each in range(len(table))].index("a = x and b = u")
        assert table.p_value[number] < 1e-6
        assert (gain[number] <= 0.05) == kept, f"gain p {gain[number]}"


def test_the_gain_over_a_parent_is_a_test_inside_the_parent():
    """The largest of the hypergeometric p-values inside each parent, by hand."""
    features, loss = small(600)
    literals = slice_inputs.bin_features(features)
    table = slices.search_slices(literals, loss, max_literals=3, min_rows=10)
    gain = slice_redundancy.gain_over_parents_p(table)
    for number in range(0, len(table), 7):
        key = key_of(table, number)
        worst = 0.0
        for drop in range(len(key)) if len(key) > 1 else ():
            parent = np.ones(len(features), dtype=bool)
            for place, (column, code) in enumerate(key):
                parent &= (literals.codes[:, column] == code) | (place == drop)
            child = table.rows(number)
            wrong = loss.values[parent].sum()
            worst = max(
                worst,
                stats.hypergeom.sf(loss.values[child].sum() - 1, parent.sum(), wrong, child.sum()),
            )
        assert gain[number] == pytest.approx(worst, abs=1e-12)


def test_another_name_for_the_same_rows_is_named_once():
    """Husband, and married and male: one slice, two names. The list holds it once."""
    rng = np.random.default_rng(0)
    sex = rng.choice(["Male", "Female"], 2000)
    features = pd.DataFrame(
        {
            "sex": sex,
            "pronoun": np.where(sex == "Male", "he", "she"),
            "b": rng.choice(list("uv"), 2000),
        }
    )
    errors = (rng.random(2000) < np.where(sex == "Male", 0.4, 0.1)).astype(float)
    loss = slice_inputs.RowLoss("error", errors, np.ones(2000, dtype=bool))
    table = slices.search_slices(slice_inputs.bin_features(features), loss, max_literals=1)
    order = np.argsort(table.p_value, kind="stable")[:2]
    assert {table.text(int(number)) for number in order} == {"sex = Male", "pronoun = he"}
    assert len(slice_redundancy.distinct_slices(table, order.tolist())) == 1


def test_a_slice_inside_a_chosen_one_can_still_add_to_it():
    """a = x errs more, and with b = u more again: both are named, the wider one first.

    All rows of the narrower slice lie in the wider one. Tested on the rows outside it, nothing
    would be left; a parent is what a slice adds to, so it stays in.
    """
    rng = np.random.default_rng(0)
    n = 8000
    features = pd.DataFrame({name: rng.choice(list("xyuv"), n) for name in ("a", "b", "c")})
    risk = 0.1 + 0.3 * (features["a"] == "x")
    risk += 0.1 * ((features["a"] == "x") & (features["b"] == "u"))
    loss = slice_inputs.RowLoss(
        "error", (rng.random(n) < risk).astype(float), np.ones(n, dtype=bool)
    )
    table = slices.search_slices(slice_inputs.bin_features(features), loss, max_literals=3)
    kept = slice_redundancy.adding_slices(table, np.flatnonzero(table.p_value < 1e-4))
    kept = kept[np.argsort(table.p_value[kept])]
    found = [table.text(k) for k in slice_redundancy.distinct_slices(table, kept.tolist())]
    assert found == ["a = x", "a = x and b = u"], found


def test_sliceline_prefers_large_slices_as_alpha_falls():
    """Its score, by hand, and its trade of error for size."""
    features, loss = small(400)
    table = slices.search_slices(slice_inputs.bin_features(features), loss, min_rows=10)
    score = slices.sliceline_score(table, alpha=0.9)
    overall = loss.values.mean()
    by_hand = 0.9 * (table.mean[3] / overall - 1) - 0.1 * (400 / table.n[3] - 1)
    assert score[3] == pytest.approx(by_hand)
    best = [table.n[np.argmax(slices.sliceline_score(table, alpha=a))] for a in (0.5, 1.0)]
    assert best[0] > best[1]


def test_each_loss_counts_its_own_rows():
    """A false positive can only happen to a negative: among all rows it would hide base rates."""
    truth, score = [0, 0, 1, 1], [0.2, 0.9, 0.4, 0.8]
    losses = {name: slice_inputs.row_loss(name, truth, score) for name in slice_inputs.LOSSES}
    assert losses["error"].values.tolist() == [0, 1, 1, 0]
    assert losses["false_positive"].counted.tolist() == [True, True, False, False]
    assert losses["false_positive"].values[:2].tolist() == [0, 1]
    assert losses["false_negative"].counted.tolist() == [False, False, True, True]
    assert losses["false_negative"].values[2:].tolist() == [1, 0]
    assert losses["residual"].values == pytest.approx([-0.2, -0.9, 0.6, 0.2])
    assert losses["log_loss"].values == pytest.approx(-np.log([0.8, 0.1, 0.4, 0.8]))
    assert losses["error"].binary
    assert not losses["residual"].binary


@settled
@given(st.lists(st.integers(-3, 3), min_size=8, max_size=60).filter(lambda x: len(set(x)) > 4))
def test_every_number_lies_in_the_bin_that_names_it(numbers):
    """The name of a bin is what a reader will act on; it must select the bin's rows."""
    literals = slice_inputs.bin_features(pd.DataFrame({"age": numbers}), bins=4)
    for number, code in zip(numbers, literals.codes[:, 0]):
        assert eval(literals.names[0][code], {"age": number}), literals.names[0][code]
    assert set(literals.codes[:, 0]) == set(range(len(literals.names[0])))


def test_adults_mostly_zero_columns_split_at_zero():
    """capital_gain is 0 for nine in ten: its quartiles coincide, and two bins remain."""
    task = adult_task(load("adult").table("test"))
    literals = slice_inputs.bin_features(task.features.assign(sex=task.groups))
    names = dict(zip(literals.columns, literals.names))
    assert names["capital_gain"] == ("capital_gain <= 0", "capital_gain > 0")
    assert names["sex"] == ("sex = Female", "sex = Male")
    assert len(names["age"]) == 4


def test_bad_input_is_named():
    """NaN, labels that are not 0 or 1, lengths that differ, limits out of range."""
    features, loss = small()
    literals = slice_inputs.bin_features(features)
    with pytest.raises(InputError, match="'age' is missing in 1 rows"):
        slice_inputs.bin_features(features.assign(age=[None, *features["age"][1:]]))
    with pytest.raises(InputError, match="holds 2"):
        slice_inputs.row_loss("error", [0, 2], [0.1, 0.2])
    with pytest.raises(InputError, match="holds nan"):
        slice_inputs.row_loss("error", [0, 1], [0.1, float("nan")])
    with pytest.raises(InputError, match="false_negative"):
        slice_inputs.row_loss("false_negative", [0, 0], [0.1, 0.2])
    with pytest.raises(InputError, match="must be one of"):
        slice_inputs.row_loss("accuracy", [0, 1], [0.1, 0.2])
    with pytest.raises(InputError, match="must both be"):
        slice_inputs.row_loss("error", [0, 1], [0.1])
    with pytest.raises(InputError, match="1, 2 or 3"):
        slices.search_slices(literals, loss, max_literals=4)
    with pytest.raises(InputError, match="align"):
        slices.search_slices(literals, slice_inputs.row_loss("error", [0, 1], [0.1, 0.9]))
    with pytest.raises(InputError, match="not finite"):
        slice_inputs.RowLoss("error", np.array([np.nan]), np.array([True]))


def test_too_few_rows_leave_an_empty_table():
    """No slice has enough rows: the answer is empty, not an error and not a slice of ten."""
    features, loss = small(40)
    table = slices.search_slices(slice_inputs.bin_features(features), loss, min_rows=30)
    assert len(table) == 0
    assert table.effect.shape == (0,)
    assert slice_redundancy.gain_over_parents_p(table).shape == (0,)
