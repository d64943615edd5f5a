import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab2_vector_db.filters import And, Eq, Exists, In, Not, Or, Range, matches
from labs.lab2_vector_db.payload import PayloadColumns
from labs.lab2_vector_db.payload_index import PayloadIndex

FIELDS = {"year": "int", "price": "float", "tag": "keyword", "sold": "bool"}
# Few values, so that comparisons meet equal ones, the extremes among them.
VALUES = {
    "year": st.sampled_from([-(2**63), -1, 0, 1, 2, 2**63 - 1]),
    "price": st.sampled_from([-1.5, -0.0, 0.0, 0.1, 2.0, 1e308]),
    "tag": st.sampled_from(["", "a", "aa", "b", "ß"]),
    "sold": st.booleans(),
}
NUMBERS = st.sampled_from(["year", "price"])


def a_range(field):
    bound = VALUES[field]
    low, high = st.sampled_from(["gt", "gte"]), st.sampled_from(["lt", "lte"])
    below = st.builds(lambda name, value: {name: value}, high, bound)
    above = st.builds(lambda name, value: {name: value}, low, bound)
    bounds = below | above | st.builds(lambda one, two: one | two, above, below)
    return st.builds(lambda given: Range(field, **given), bounds)


def a_comparison(field):
    values = VALUES[field] | (st.just("nowhere") if field == "tag" else st.nothing())
    some = st.lists(values, min_size=1, max_size=4)
    return (
        st.builds(Eq, st.just(field), values)
        | st.builds(In, st.just(field), some)
        | st.just(Exists(field))
    )


COMPARISONS = st.sampled_from(list(FIELDS)).flatmap(a_comparison) | NUMBERS.flatmap(a_range)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: (
        st.builds(Not, inner)
        | st.lists(inner, min_size=1, max_size=3).map(lambda clauses: And(*clauses))
        | st.lists(inner, min_size=1, max_size=3).map(lambda clauses: Or(*clauses))
    ),
    max_leaves=6,
)
PAYLOADS = st.integers(0, 12).flatmap(
    lambda n: st.fixed_dictionaries(
        {
            name: st.lists(st.none() | values, min_size=n, max_size=n)
            for name, values in VALUES.items()
        }
    )
)


@given(payload=PAYLOADS, condition=FILTERS)
@settings(max_examples=150, deadline=None)
def test_the_index_agrees_with_plain_python_on_every_row(payload, condition):
    columns = PayloadColumns.from_dict(FIELDS, payload, len(payload["year"]))
    index = PayloadIndex(columns)
    expected = [matches(condition, columns.row(row)) for row in range(len(columns))]
    found = index.matching(condition)
    assert found.dtype == np.bool_
    assert found.tolist() == expected
    least, most = index.count_bounds(condition)
    assert least <= sum(expected) <= most
    if isinstance(condition, Eq | In | Range | Exists):
        assert least == most


@given(payload=PAYLOADS, one=FILTERS, two=FILTERS)
@settings(max_examples=30, deadline=None)
def test_de_morgans_laws_hold_with_missing_values(payload, one, two):
    index = PayloadIndex(PayloadColumns.from_dict(FIELDS, payload, len(payload["year"])))
    left, right = index.matching(Not(Or(one, two))), index.matching(And(Not(one), Not(two)))
    np.testing.assert_array_equal(left, right)


def many_rows(n=20_000):
    rng = np.random.default_rng(0)
    tags = np.array([None, *(f"tag{number}" for number in range(30))], object)
    return PayloadColumns.from_dict(
        FIELDS,
        {
            "year": rng.integers(1900, 2030, n),
            "price": np.where(rng.random(n) < 0.1, None, rng.random(n).astype(object)).tolist(),
            "tag": tags[rng.integers(0, 31, n)].tolist(),
            "sold": rng.random(n) < 0.3,
        },
        n,
    )


def test_many_rows_agree_with_the_columns_themselves():
    columns = many_rows()
    index = PayloadIndex(columns)
    year, price = columns.columns["year"].values, columns.columns["price"]
    np.testing.assert_array_equal(index.matching(Range("year", gte=2000)), year >= 2000)
    np.testing.assert_array_equal(index.matching(Range("year", lt=2025)), year < 2025)
    np.testing.assert_array_equal(
        index.matching(Range("price", gt=0.25, lte=0.75)),
        price.valid & (price.values > 0.25) & (price.values <= 0.75),
    )
    words = [f"tag{number}" for number in range(0, 30, 2)]
    expected = [columns.columns["tag"].value(row) in words for row in range(len(columns))]
    assert index.matching(In("tag", words)).tolist() == expected


def test_the_memory_of_an_index_is_four_bytes_a_value_and_made_on_demand():
    columns = many_rows()
    index = PayloadIndex(columns)
    assert index.nbytes == 0
    index.matching(Eq("year", 2000))
    assert index.nbytes == 4 * len(columns)
    index.prepare()
    assert index.nbytes == sum(4 * int(each.valid.sum()) for each in columns.columns.values())


def test_a_mask_is_the_callers_own():
    columns = many_rows(100)
    index = PayloadIndex(columns)
    for condition in (Exists("year"), Not(Eq("year", 0)), Range("year", gte=0), Eq("sold", True)):
        before = index.matching(condition)
        changed = index.matching(condition)
        changed[:] = False
        np.testing.assert_array_equal(index.matching(condition), before)
    assert columns.columns["year"].valid.all()


def test_a_memory_mapped_payload_answers_the_same(tmp_path):
    columns = many_rows(500)
    columns.save(tmp_path / "p")
    mapped = PayloadIndex(PayloadColumns.load(tmp_path / "p"))
    condition = Range("price", lt=0.5) & Eq("tag", "tag3") | ~Exists("tag")
    expected = PayloadIndex(columns).matching(condition)
    np.testing.assert_array_equal(mapped.matching(condition), expected)
    assert expected.any()


def test_threads_may_ask_at_the_same_time():
    index, found = PayloadIndex(many_rows()), []
    ask = lambda: found.append(int(index.matching(Range("year", gte=2000)).sum()))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_filter_that_does_not_fit_is_refused_before_anything_is_made():
    index = PayloadIndex(many_rows(10))
    for ask in (index.matching, index.count_bounds):
        with pytest.raises(InputError, match="'colour' is not in the schema"):
            ask(Eq("year", 2000) & Eq("colour", "red"))
    assert index.nbytes == 0
