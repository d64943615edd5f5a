import json

import numpy as np
import pytest

from common.errors import InputError
from labs.lab2_vector_db.filters import (
    And,
    Eq,
    Exists,
    In,
    Not,
    Or,
    Range,
    check,
    filter_from_json,
    filter_to_json,
    matches,
)

FIELDS = {"year": "int", "price": "float", "tag": "keyword", "sold": "bool"}
ROW = {"year": 2020, "price": 2.5, "tag": "a"}  # sold is missing


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Eq("year", 2020), True),
        (Eq("tag", "b"), False),
        (In("year", [2019, 2020]), True),
        (In("tag", ["b", "c"]), False),
        (Range("price", gt=2.5), False),
        (Range("price", gte=2.5), True),
        (Range("price", gte=2.5, lt=2.5), False),
        (Range("year", gt=2019, lte=2020), True),
        (Exists("year"), True),
        (Eq("year", 2020) & Eq("tag", "b"), False),
        (Eq("year", 2020) | Eq("tag", "b"), True),
    ],
)
def test_what_a_filter_means(condition, expected):
    assert matches(condition, ROW) is expected


def test_a_missing_value_satisfies_no_comparison_and_not_is_the_complement():
    for comparison in (Eq("sold", True), Eq("sold", False), In("sold", [True, False])):
        assert not matches(comparison, ROW)
        assert matches(~comparison, ROW)
    assert not matches(Exists("sold") & ~Eq("sold", True), ROW)
    assert not matches(Range("year", lt=3000), {})
    assert matches(Not(Range("year", lt=3000)), {})


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (Eq("colour", "red"), r"'colour' is not in the schema, which has year \(int\), price"),
        (Eq("year", "2020"), "'year' of type int: '2020' is str, expected int"),
        (Eq("year", 2020.0), "2020.0 is float"),
        (Eq("year", True), "True is bool"),
        (Eq("year", None), "None is NoneType"),
        (Eq("year", 2**63), "64 bits"),
        (Eq("price", float("nan")), "not finite"),
        (Range("price", lt=float("inf")), "leave the bound out"),
        (Eq("price", 2**53 + 1), "float64"),
        (Eq("tag", 3), "3 is int, expected str"),
        (Eq("sold", 1), "1 is int, expected bool"),
        (In("year", []), "'year' of type int: In takes a list of 1 to"),
        (In("tag", "abc"), "In takes a list"),
        (In("year", [1, "x"]), "'x' is str"),
        (In("year", range(70_000)), "1 to 65536"),
        (Range("tag", gte="a"), "'tag' of type keyword: a range needs an int or a float"),
        (Range("sold", gte=0), "'sold' of type bool: a range needs"),
        (Range("year"), "needs one of gt, gte, lt, lte"),
        (Range("year", gt=1, gte=1), "one bound a side, found gt, gte"),
        (Range("year", gt=1.5), "1.5 is float"),
        (And(), r"And\(\) has no clause"),
        (Or(), r"Or\(\) has no clause"),
        (And(Eq("year", 1), "sold"), "'sold' is no filter"),
        (Not(None), "None is no filter"),
        (And(Eq("year", 1), Not(Or(Eq("colour", "red")))), "'colour' is not in the schema"),
        ({"year": 1}, "is no filter"),
    ],
)
def test_a_filter_that_does_not_fit_the_schema_is_refused_with_field_and_type(condition, says):
    with pytest.raises(InputError, match=says):
        check(condition, FIELDS)


def test_numpy_numbers_are_values_too():
    check(Eq("year", np.int32(3)) & In("price", np.array([1.5, 2.5])), FIELDS)


def test_a_filter_may_be_deep_but_not_endless():
    condition = Eq("year", 1)
    for _ in range(31):
        condition = Not(condition)
    check(condition, FIELDS)
    with pytest.raises(InputError, match="more than 32 levels"):
        check(Not(condition), FIELDS)
    text = json.dumps(filter_to_json(Eq("year", 1)))
    for _ in range(50):
        text = f'{{"not": {text}}}'
    with pytest.raises(InputError, match="more than 32 levels"):
        filter_from_json(json.loads(text))


def test_filters_are_values():
    one, two = (And(In("tag", ["a", "b"]), Range("year", gte=1)) for _ in range(2))
    assert one == two
    assert len({one, two, Not(one)}) == 2


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (Eq("year", 2020), '{"field": "year", "eq": 2020}'),
        (In("tag", ["a", "b"]), '{"field": "tag", "in": ["a", "b"]}'),
        (Range("price", gte=1.5, lt=3), '{"field": "price", "gte": 1.5, "lt": 3}'),
        (Exists("sold"), '{"field": "sold", "exists": true}'),
        (
            Or(And(Eq("sold", True), Range("year", gt=0)), Not(Eq("tag", ""))),
            '{"or": [{"and": [{"field": "sold", "eq": true}, {"field": "year", "gt": 0}]}, '
            '{"not": {"field": "tag", "eq": ""}}]}',
        ),
    ],
)
def test_json_there_and_back(condition, text):
    assert filter_from_json(json.loads(text)) == condition
    assert filter_to_json(condition) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{}",
        '{"field": "year"}',
        '{"eq": 3}',
        '{"field": 3, "eq": 3}',
        '{"field": "year", "eq": 3, "gt": 1}',
        '{"field": "year", "gt": null}',
        '{"field": "year", "like": "x"}',
        '{"field": "year", "in": "abc"}',
        '{"field": "year", "exists": false}',
        '{"and": {}}',
        '{"and": [], "or": []}',
        '{"and": [3]}',
    ],
)
def test_json_that_is_no_filter_is_refused(text):
    with pytest.raises(InputError, match="a filter"):
        filter_from_json(json.loads(text))
