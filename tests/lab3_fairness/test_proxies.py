import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats.contingency import association
from sklearn.metrics import roc_auc_score

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import proxies
from labs.lab3_fairness.scoring import boosting, logistic_regression


def people(n=160, seed=0, **columns):
    """Half are women; three columns of noise, a label of noise, and the columns given."""
    rng = np.random.default_rng(seed)
    sex = np.repeat(["woman", "man"], n // 2)
    noise = {name: rng.normal(size=n) for name in ("a", "b", "c")}
    hired = rng.integers(2, size=n)
    return pd.DataFrame({**noise, "hired": hired, "sex": sex, **columns})


def women(table, make=boosting):
    return proxies.proxy_auc(table, sensitive="sex", group="woman", label="hired", make=make)


@pytest.mark.exercise("3.7")
def test_columns_of_noise_do_not_tell_the_group():
    """Noise tells nothing: about .5 on rows the model has not seen, and 1.0 on those it has.

    A model of trees remembers 160 rows. Scored on the rows it was fitted on, any table is full
    of proxies, and an audit that says so of every table says nothing.
    """
    got = women(people())
    assert got < 0.65, f"three columns of noise: expected an AUC near .5, got {got:.3f}"


@pytest.mark.exercise("3.7")
def test_neither_the_sensitive_column_nor_the_label_is_a_feature():
    """With sex among the features the AUC is 1 for any table; the label is the base rates' matter.

    Here all women and no men were hired. That is a finding about the labels, which an audit
    reports as such; at the time of a decision nobody has the label to guess sex from.
    """
    table = people()
    got = women(table.assign(hired=(table["sex"] == "woman").astype(int)))
    assert got < 0.65, f"only noise may be used: expected an AUC near .5, got {got:.3f}"
    got = women(table)
    assert got < 0.65, f"only noise may be used: expected an AUC near .5, got {got:.3f}"


class BoughtScore:
    """A fitted score from elsewhere, high for men."""

    def fit(self, features, labels):
        return self

    def predict_proba(self, features):
        score = features["score"].to_numpy()
        return np.stack([1 - score, score], axis=1)


@pytest.mark.exercise("3.7")
def test_a_score_that_ranks_the_group_last_tells_it_as_well():
    """An AUC of .1 is as good a proxy as one of .9: turn the score round.

    A score of a name that is high for men is how a model learns sex from names; that it is not
    high for women is a matter of sign.
    """
    table = people()
    man = (table["sex"] == "man").to_numpy()
    rng = np.random.default_rng(1)
    table["score"] = np.clip(0.3 + 0.35 * man + rng.normal(0, 0.18, len(table)), 0, 1)
    expected = roc_auc_score(man, table["score"])
    got = women(table, make=lambda seed: BoughtScore())
    assert got == pytest.approx(expected), f"expected {expected:.3f}, got {got:.3f}"


@pytest.mark.exercise("3.7")
def test_the_columns_of_adult_tell_sex():
    """Sex is not among the features, and a linear model still finds it with an AUC above .9."""
    table = load("adult").table("train").sample(3000, random_state=0).drop(columns="fnlwgt")
    got = proxies.proxy_auc(
        table, sensitive="sex", group="Female", label="income", make=logistic_regression, folds=3
    )
    assert 0.9 < got < 0.96, f"AUC of sex from Adult's other columns: expected .93, got {got:.3f}"


def test_the_delong_interval_has_the_error_of_the_bootstrap():
    """Two roads to the same standard error; the one by ranks takes no resampling."""
    rng = np.random.default_rng(0)
    member = rng.integers(2, size=400)
    scores = np.round(member + rng.normal(0, 1.5, 400), 1)
    auc, low, high = proxies.auc_interval(scores, member)
    assert auc == pytest.approx(roc_auc_score(member, scores))
    inside, outside = np.flatnonzero(member == 1), np.flatnonzero(member == 0)
    replicates = []
    for _ in range(400):
        rows = np.r_[rng.choice(inside, len(inside)), rng.choice(outside, len(outside))]
        replicates.append(roc_auc_score(member[rows], scores[rows]))
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(replicates), rel=0.12)


def test_the_delong_interval_covers():
    """95 % of the intervals hold the true AUC, Phi(d / sqrt 2) for two bell curves d apart."""
    rng = np.random.default_rng(0)
    truth, covered = 0.7601, 0  # Phi(1 / sqrt 2)
    for _ in range(1000):
        scores = np.r_[rng.normal(1, 1, 60), rng.normal(0, 1, 90)]
        _, low, high = proxies.auc_interval(scores, np.repeat([1, 0], [60, 90]))
        covered += low <= truth <= high
    assert 0.93 <= covered / 1000 <= 0.97, covered


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=4, max_size=30))
def test_the_auc_by_ranks_is_that_of_sklearn_with_ties(scores):
    """Ties count half."""
    member = np.arange(len(scores)) % 2
    auc, low, high = proxies.auc_interval(scores, member)
    assert auc == pytest.approx(roc_auc_score(member, scores))
    assert low <= auc <= high


def test_a_column_alone_is_judged_on_rows_that_did_not_say_how():
    """A column of ids tells nobody's sex, though each id has one sex."""
    rng = np.random.default_rng(0)
    member = rng.integers(2, size=600)
    ids = pd.Series([f"id{i}" for i in range(600)])
    assert proxies.column_auc(ids, member) == pytest.approx(0.5, abs=0.02)
    falling = pd.Series(-member + rng.normal(0, 1, 600))
    hollow = pd.Series(np.where(member == 1, rng.choice([-2, 2], 600), 0) + rng.normal(0, 1, 600))
    assert proxies.column_auc(falling, member) > 0.66
    assert proxies.column_auc(hollow, member) > 0.75, "both ends are women: no order shows it"


def test_missing_numbers_are_a_category():
    """Who did not answer is told by not answering."""
    member = np.tile([0, 1], 100)
    answers = pd.Series(np.where(member == 1, np.nan, np.arange(200.0)))
    assert proxies.column_auc(answers, member) > 0.99


def test_the_corrected_cramers_v_forgets_what_many_values_give():
    """scipy's V of 200 rare values and a coin is .5; corrected it is near 0."""
    rng = np.random.default_rng(0)
    column, coin = rng.integers(200, size=800), rng.integers(2, size=800)
    plain = association(pd.crosstab(column, coin).to_numpy(), method="cramer")
    assert plain > 0.4
    assert proxies.cramers_v(column, coin) < 0.2
    assert proxies.cramers_v(coin, coin) == pytest.approx(1.0, abs=1e-3)
    large = rng.integers(2, size=20_000)
    table = pd.crosstab(large, large ^ (rng.random(20_000) < 0.3)).to_numpy()
    by_hand = proxies.cramers_v(
        np.repeat([0, 0, 1, 1], table.ravel()), np.repeat([0, 1, 0, 1], table.ravel())
    )
    assert by_hand == pytest.approx(association(table, method="cramer"), abs=1e-3)


def test_dropping_the_strongest_column_leaves_most_of_the_group():
    """Adult without ``relationship``: sex is still told, by what is left together."""
    table = load("adult").table("train").sample(2500, random_state=1)
    report = proxies.proxy_report(
        table,
        sensitive="sex",
        group="Female",
        label="income",
        ignore=["fnlwgt"],
        make=logistic_regression,
        n_drop=2,
        folds=2,
    )
    assert [column.column for column in report.columns][:1] == ["relationship"]
    assert report.auc_ci95[0] < report.auc < report.auc_ci95[1]
    dropped = {left.dropped: left.auc for left in (*report.drop_one, *report.drop_many)}
    assert 0.75 < dropped[("relationship",)] < report.auc - 0.03
    assert dropped[("relationship", "marital_status")] < dropped[("relationship",)]
    assert list(report.table().columns) == ["column", "auc", "cramers_v"]
    assert report.drop_table()["dropped"].tolist() == [
        "none",
        "relationship",
        "marital_status",
        "relationship, marital_status",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sensitive": "gender"}, "column = 'gender' is not in the table"),
        ({"group": "women"}, "members of 'women' = 0 must be >= folds = 5; is the group spelt so"),
        ({"label": "wage"}, "column = 'wage' is not in the table"),
    ],
)
def test_what_is_not_there_is_an_error(change, message):
    """A group of nobody has no AUC; 0.5 would read as "no proxies"."""
    options = {"sensitive": "sex", "group": "woman", "label": "hired", **change}
    with pytest.raises(InputError, match=message):
        proxies.proxy_auc(people(), **options)


def test_free_text_is_refused_by_name():
    """Names and case numbers are not categories, and 300 of them are memory, not a proxy."""
    table = people(n=600, name=[f"person {i}" for i in range(600)])
    with pytest.raises(InputError, match="column 'name' has 600 different texts"):
        women(table)


@pytest.mark.parametrize(
    "labels",
    [[0.2, 1.7], [1, 1], [0, 1, 2], ["yes", "no"], [0.0, np.nan], ["0", "1"]],
)
def test_a_label_that_is_no_yes_or_no_is_refused(labels):
    """Cut to whole numbers, .2 and 1.7 would be 0 and 1, and their AUC a number about nothing."""
    table = people(hired=np.resize(np.array(labels), 160))
    options = {"sensitive": "sex", "group": "woman", "label": "hired", "make": logistic_regression}
    with pytest.raises(InputError, match="label column 'hired'"):
        proxies.proxy_auc(table, **options)
    with pytest.raises(InputError, match="label column 'hired'"):
        proxies.proxy_report(table, **options, n_drop=0)


def test_a_label_of_true_and_false_is_one_of_1_and_0():
    table = people()
    options = {"sensitive": "sex", "group": "woman", "label": "hired", "n_drop": 0, "folds": 2}
    found = [
        proxies.proxy_report(
            table.assign(hired=table["hired"].astype(kind)), make=logistic_regression, **options
        ).label_auc
        for kind in (int, bool, float)
    ]
    assert found[0] == found[1] == found[2]
