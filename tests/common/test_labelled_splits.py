"""The parts of a data set are apart, shuffled by the seed, and named."""

import pandas as pd
import pytest

from common.data import labelled_texts as texts
from common.data.fetch import DataError
from common.data.labelled_texts import LIBRARIES, read_split
from common.errors import InputError


@pytest.fixture(scope="module")
def docstrings():
    return read_split("docstrings")


class Clinc:
    """A data set of 3 intents in 3 parts, as CLINC150 comes."""

    def table(self, name: str) -> pd.DataFrame:
        n = {"train": 300, "validation": 30, "test": 60}[name]
        rows = [(f"{name} text {i}", ("pay", "alarm", "weather")[i % 3]) for i in range(n)]
        return pd.DataFrame(rows, columns=["text", "intent"])


def test_docstrings_come_in_three_parts_that_share_no_row(docstrings):
    assert len(docstrings.names) == LIBRARIES
    parts = [docstrings.train, docstrings.validation, docstrings.test]
    assert all(len(part.texts) == len(part.labels) > 100 for part in parts)
    assert len(docstrings.train) > len(docstrings.test)
    for part in parts:
        assert set(part.labels.tolist()) <= set(range(LIBRARIES))


def test_a_limit_shortens_the_training_part_alone(docstrings):
    short = read_split("docstrings", limit=200)
    assert len(short.train) == 200
    assert short.train.texts == docstrings.train.texts[:200]
    assert short.test.texts == docstrings.test.texts


def test_labels_are_numbers_of_the_sorted_names_and_parts_are_shuffled(monkeypatch):
    monkeypatch.setattr(texts, "load", lambda name: Clinc())
    split = read_split("clinc150", limit=100)
    assert split.names == ("alarm", "pay", "weather")
    assert (len(split.train), len(split.validation), len(split.test)) == (100, 30, 60)
    intents = {i: ("pay", "alarm", "weather")[i % 3] for i in range(300)}
    for text, label in zip(split.train.texts, split.train.labels, strict=True):
        assert split.names[label] == intents[int(text.split()[-1])]
    assert split.train.texts != sorted(split.train.texts, key=lambda t: int(t.split()[-1]))
    assert read_split("clinc150", limit=100, seed=1).train.texts != split.train.texts
    assert read_split("clinc150", limit=100).train.texts == split.train.texts


def test_without_clinc150_auto_goes_on_with_docstrings_and_the_name_is_an_error(
    monkeypatch, docstrings
):
    real = texts.load

    def absent(name):
        if name == "clinc150":
            raise DataError("no source has it")
        return real(name)

    monkeypatch.setattr(texts, "load", absent)
    assert read_split("auto").names == docstrings.names
    with pytest.raises(DataError, match="no source"):
        read_split("clinc150")


@pytest.mark.parametrize(("wrong", "message"), [({"source": "imdb"}, "imdb"), ({"limit": 9}, "9")])
def test_what_cannot_be_read_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        read_split(**wrong)


def test_a_head_is_the_first_rows(docstrings):
    head = docstrings.test.head(5)
    assert (head.texts, head.labels.tolist()) == (
        docstrings.test.texts[:5],
        docstrings.test.labels[:5].tolist(),
    )
