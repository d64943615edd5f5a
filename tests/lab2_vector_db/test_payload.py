import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError, RunError
from labs.lab2_vector_db.dictionary import NOT_THERE, Dictionary
from labs.lab2_vector_db.payload import PayloadColumns

FIELDS = {"year": "int", "price": "float", "tag": "keyword", "sold": "bool"}
GIVEN = {
    "year": [2020, None, -3, 2**63 - 1],
    "price": [1, 2.5, None, -0.25],
    "tag": ["b", "", None, "größe"],
    "sold": [True, None, False, True],
}
ROWS = [
    {"year": 2020, "price": 1.0, "tag": "b", "sold": True},
    {"price": 2.5, "tag": ""},
    {"year": -3, "sold": False},
    {"year": 2**63 - 1, "price": -0.25, "tag": "größe", "sold": True},
]
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=20)


def rows_of(columns):
    return [columns.row(row) for row in range(len(columns))]


@pytest.fixture
def columns():
    return PayloadColumns.from_dict(FIELDS, GIVEN, 4)


def test_rows_come_back_with_their_types_and_without_missing_values(columns):
    assert rows_of(columns) == ROWS
    assert [type(value) for value in columns.row(0).values()] == [int, float, str, bool]


def test_numpy_arrays_are_taken_as_they_are():
    arrays = {
        "year": np.array([1, 2], np.int16),
        "price": np.array([1, 2], np.float32),
        "tag": np.array(["x", "y"]),
        "sold": np.array([True, False]),
    }
    found = PayloadColumns.from_dict(FIELDS, arrays, 2)
    assert rows_of(found)[1] == {"year": 2, "price": 2.0, "tag": "y", "sold": False}
    scalars = {name: list(array) for name, array in arrays.items() if name != "price"}
    assert rows_of(PayloadColumns.from_dict(FIELDS, scalars, 2))[1] == {
        "year": 2,
        "tag": "y",
        "sold": False,
    }


def test_a_field_left_out_is_missing_everywhere():
    assert rows_of(PayloadColumns.from_dict(FIELDS, {"year": [1, 2]}, 2)) == [
        {"year": 1},
        {"year": 2},
    ]
    assert rows_of(PayloadColumns.empty(FIELDS, 2)) == [{}, {}]
    assert len(PayloadColumns.empty({}, 5)) == 5


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"colour": ["a"]}, r"'colour' is not in the schema, which has \['year', 'price'"),
        ({"year": [1, 2]}, "values of field 'year' = 2 must be 1"),
        ({"year": [True]}, r"'year', row 0 is True \(bool\); the field is of type int"),
        ({"year": [3.0]}, "row 0 is 3.0"),
        ({"year": [2**63]}, "64 bits"),
        ({"year": np.array([2**63], np.uint64)}, "int64"),
        ({"year": np.array([1.0])}, "float64"),
        ({"year": np.array([[1]])}, "must be"),
        ({"year": "7"}, "list or an array"),
        ({"year": 7}, "list or an array"),
        ({"price": [float("nan")]}, "a missing value is None"),
        ({"price": np.array([np.inf])}, "row 0 is inf"),
        ({"price": [True]}, "type float"),
        ({"price": ["1.5"]}, "type float"),
        ({"price": [10**400]}, "64 bits"),
        ({"tag": [7]}, "type keyword"),
        ({"tag": ["\ud800"]}, "no Unicode"),
        ({"sold": [1]}, "type bool"),
    ],
)
def test_a_value_of_another_type_is_refused_with_field_row_and_type(payload, says):
    with pytest.raises(InputError, match=says):
        PayloadColumns.from_dict(FIELDS, payload, 1)


@pytest.mark.parametrize("fields", [{"": "int"}, {"year": "date"}, {3: "int"}])
def test_a_schema_that_is_wrong_is_refused(fields):
    with pytest.raises(InputError, match="must be"):
        PayloadColumns.empty(fields)


def test_take_and_concat_keep_rows(columns):
    some = columns.take(np.array([3, 0]))
    masked = columns.take(np.array([False, True, True, False]))
    assert rows_of(some) == [ROWS[3], ROWS[0]]
    assert rows_of(masked) == ROWS[1:3]
    assert rows_of(columns.take(slice(1, 3))) == ROWS[1:3]
    other = PayloadColumns.from_dict(FIELDS, {"tag": ["a", "größe"]}, 2)
    joined = PayloadColumns.concat([some, other, PayloadColumns.empty(FIELDS), masked])
    assert rows_of(joined) == [ROWS[3], ROWS[0], {"tag": "a"}, {"tag": "größe"}, *ROWS[1:3]]
    assert (
        len(PayloadColumns.concat([PayloadColumns.empty({}, 2), PayloadColumns.empty({}, 3)])) == 5
    )
    with pytest.raises(InputError, match="in all parts"):
        PayloadColumns.concat([columns, PayloadColumns.empty({"year": "int"})])


def test_concat_drops_words_that_no_row_uses(columns):
    found = PayloadColumns.concat([columns.take(np.array([0, 2]))])
    assert list(found.columns["tag"].words) == ["b"]
    assert rows_of(found) == [ROWS[0], ROWS[2]]


@given(parts=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_merged_dictionaries_keep_every_text(parts):
    joined = PayloadColumns.concat(
        [PayloadColumns.from_dict({"k": "keyword"}, {"k": part}, len(part)) for part in parts]
    )
    texts = [text for part in parts for text in part]
    assert [joined.row(row)["k"] for row in range(len(joined))] == texts
    words = joined.columns["k"].words
    assert list(words) == sorted(set(texts))
    for word in texts:
        assert words[words.code(word)] == word


def test_a_text_that_is_in_no_row_has_no_code():
    words = Dictionary.of(["b", "d"])
    assert [words.code(word) for word in ("a", "b", "c", "d", "e", "\ud800")] == [
        NOT_THERE,
        0,
        NOT_THERE,
        1,
        NOT_THERE,
        NOT_THERE,
    ]
    assert Dictionary.of([]).code("a") == NOT_THERE


@pytest.mark.parametrize("mmap", [True, False])
def test_saved_columns_come_back(columns, tmp_path, mmap):
    columns.save(tmp_path / "payload")
    found = PayloadColumns.load(tmp_path / "payload", mmap=mmap)
    assert (rows_of(found), found.fields) == (ROWS, FIELDS)
    assert isinstance(found.columns["year"].values, np.memmap) == mmap
    assert found.columns["tag"].words.code("größe") == 2


def test_columns_without_rows_or_fields_can_be_saved(tmp_path):
    for name, fields, n in (("a", FIELDS, 0), ("b", {}, 7), ("c", FIELDS, 3)):
        PayloadColumns.empty(fields, n).save(tmp_path / name)
        found = PayloadColumns.load(tmp_path / name)
        assert (len(found), found.fields) == (n, fields)


def test_a_changed_shortened_or_missing_file_is_named(columns, tmp_path):
    columns.save(tmp_path / "payload")
    for path in sorted((tmp_path / "payload").glob("*.npy")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(RunError, match=rf"{path.name}: the checksum does not match"):
            PayloadColumns.load(tmp_path / "payload")
        path.write_bytes(whole[:-1])
        with pytest.raises(RunError, match=rf"{path.name} has {len(whole) - 1} bytes, expected"):
            PayloadColumns.load(tmp_path / "payload", verify=False)
        path.unlink()
        with pytest.raises(RunError, match=rf"{path.name} is missing"):
            PayloadColumns.load(tmp_path / "payload")
        path.write_bytes(whole)
    assert rows_of(PayloadColumns.load(tmp_path / "payload")) == ROWS


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"schema": 9})])
def test_a_broken_manifest_is_named(columns, tmp_path, text):
    columns.save(tmp_path / "payload")
    (tmp_path / "payload" / "payload.json").write_text(text)
    with pytest.raises(RunError, match=r"payload\.json"):
        PayloadColumns.load(tmp_path / "payload")


def test_the_bytes_of_a_row_are_as_documented():
    n = 1000
    given_values = {"year": [1] * n, "price": [1.0] * n, "tag": ["abcd"] * n, "sold": [True] * n}
    found = PayloadColumns.from_dict(FIELDS, given_values, n)
    assert found.nbytes == n * (9 + 9 + 5 + 2) + 4 + 2 * 8
