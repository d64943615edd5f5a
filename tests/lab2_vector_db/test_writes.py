import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError, RunError
from labs.lab2_vector_db.payload import PayloadColumns
from labs.lab2_vector_db.writes import Delete, Upsert, decode, encode

FIELDS = {"year": "int", "price": "float", "tag": "keyword", "sold": "bool"}
VALUES = {
    "year": st.none() | st.integers(-(2**63), 2**63 - 1),
    "price": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "tag": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "sold": st.none() | st.booleans(),
}


@given(data=st.data(), n=st.integers(0, 9), dimension=st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_an_upsert_comes_back_as_it_was(data, n, dimension):
    ids = np.array(data.draw(st.lists(st.integers(0, 2**63 - 1), min_size=n, max_size=n)), np.int64)
    vectors = np.random.default_rng(n).standard_normal((n, dimension)).astype(np.float32)
    given_payload = {
        name: data.draw(st.lists(values, min_size=n, max_size=n)) for name, values in VALUES.items()
    }
    payload = PayloadColumns.from_dict(FIELDS, given_payload, n)
    record = encode(Upsert(ids, vectors, payload))
    found = decode(record)
    assert isinstance(found, Upsert)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.vectors, vectors)
    assert (found.vectors.shape, found.payload.fields) == ((n, dimension), FIELDS)
    for row in range(n):
        expected = {name: values[row] for name, values in given_payload.items()}
        expected = {name: value for name, value in expected.items() if value is not None}
        assert found.payload.row(row) == expected
    assert encode(found) == record


def test_a_delete_comes_back_as_it_was():
    found = decode(encode(Delete(np.array([3, 1, 2**40]))))
    assert isinstance(found, Delete)
    assert found.ids.tolist() == [3, 1, 2**40]


def test_the_bytes_of_a_batch_are_those_of_its_arrays():
    n, d = 1000, 96
    payload = PayloadColumns.from_dict({"year": "int"}, {"year": list(range(n))}, n)
    record = encode(Upsert(np.arange(n), np.zeros((n, d), np.float32), payload))
    assert len(record) <= n * (8 + 4 * d + 8 + 1 / 8) + 64


def test_decoding_copies_nothing():
    record = encode(Upsert(np.arange(3), np.ones((3, 5), np.float32), PayloadColumns.empty({}, 3)))
    vectors = decode(record).vectors
    assert np.shares_memory(vectors, np.frombuffer(record, np.uint8))
    assert not vectors.flags.writeable


@pytest.mark.parametrize("cut", [0, 5, 20, 100])
def test_a_record_that_is_too_short_is_refused(cut):
    record = encode(Upsert(np.arange(9), np.ones((9, 5), np.float32), PayloadColumns.empty({}, 9)))
    with pytest.raises(RunError, match="too few"):
        decode(record[:cut])


def test_a_record_of_another_format_is_refused():
    record = bytearray(encode(Delete(np.arange(3))))
    for position, value in ((0, 9), (1, 7)):
        changed = bytes([*record[:position], value, *record[position + 1 :]])
        with pytest.raises(RunError, match="format"):
            decode(changed)


def test_an_upsert_whose_parts_differ_in_length_is_refused():
    three = PayloadColumns.empty({}, 3)
    with pytest.raises(InputError, match=r"must be \[3, d\]"):
        encode(Upsert(np.arange(3), np.ones((2, 5), np.float32), three))
    with pytest.raises(InputError, match="payload rows = 3 must be 2"):
        encode(Upsert(np.arange(2), np.ones((2, 5), np.float32), three))
