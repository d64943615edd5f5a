"""A caller's own texts: three kinds of files read alike, and what is no classification refused."""

import json

import numpy as np
import pandas as pd
import pytest

from common.data.labelled_texts import read_files
from common.errors import InputError

ROWS = [
    {"text": f'text {i}, with "quotes", commas and a \u00fc', "label": label}
    for i, label in enumerate(["cat"] * 20 + ["dog"] * 40 + ["007"] * 20)
]
TEST = [{"text": "one more", "label": "dog"}, {"text": "and another", "label": "007"}]


def write(path, rows):
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def read(tmp_path, train, test=TEST, kind="csv", **options):
    return read_files(
        write(tmp_path / f"train.{kind}", train), write(tmp_path / f"test.{kind}", test), **options
    )


def test_csv_json_and_json_lines_are_read_alike(tmp_path):
    """The same rows in the same order, whatever the file; a label 007 is no number."""
    splits = [read(tmp_path, ROWS, kind=kind) for kind in ("csv", "json", "jsonl")]
    for split in splits:
        assert split.names == ("007", "cat", "dog")
        for part, first in zip(
            (split.train, split.validation, split.test),
            (splits[0].train, splits[0].validation, splits[0].test),
        ):
            assert part.texts == first.texts
            assert part.labels.tolist() == first.labels.tolist()


def test_every_row_is_in_one_part_with_its_own_label(tmp_path):
    """Nothing lost, nothing in two parts, no label moved."""
    split = read(tmp_path, ROWS)
    label = {row["text"]: row["label"] for row in [*ROWS, *TEST]}
    learned = [*split.train.texts, *split.validation.texts]
    assert sorted(learned) == sorted(row["text"] for row in ROWS)
    assert sorted(split.test.texts) == sorted(row["text"] for row in TEST)
    for part in (split.train, split.validation, split.test):
        assert [split.names[i] for i in part.labels] == [label[text] for text in part.texts]
        assert part.labels.dtype == np.int64


def test_validation_has_its_share_of_each_label(tmp_path):
    """12 of 80, as 3, 3 and 6: by chance alone a rare label may be missing."""
    split = read(tmp_path, ROWS)
    counts = np.bincount(split.validation.labels, minlength=3)
    assert counts.sum() == 12
    assert abs(counts - np.array([3, 3, 6])).max() <= 1


def test_the_seed_chooses_the_validation_part(tmp_path):
    """The same one again, and another with another seed."""
    first, same, other = (read(tmp_path, ROWS, seed=seed) for seed in (0, 0, 1))
    assert first.validation.texts == same.validation.texts
    assert sorted(first.validation.texts) != sorted(other.validation.texts)


def test_the_files_are_named_and_their_content_fingerprinted(tmp_path):
    """What a result was measured on can be told apart later."""
    first = read(tmp_path, ROWS).dataset.provenance
    changed = [{**ROWS[0], "text": "another"}, *ROWS[1:]]
    second = read(tmp_path, changed).dataset.provenance
    assert first.sha256 != second.sha256
    assert first.rows == second.rows == 82
    assert "train.csv" in first.source


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("missing", ["text", "label"])
def test_a_missing_column_is_named_with_those_there_are(kind, missing, tmp_path):
    """A file may call it sentence or intent; the message shows both sides."""
    rows = [{("words" if key == missing else key): v for key, v in row.items()} for row in ROWS]
    with pytest.raises(InputError, match=rf"words.*{missing} is missing"):
        read(tmp_path, rows, kind=kind)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("e.csv", ""),
        ("e.csv", "text,label\n"),
        ("e.csv", "\x00\xff"),
        ("e.json", ""),
        ("e.json", "[]"),
        ("e.json", "{"),
        ("e.json", "5"),
        ("e.json", '["a"]'),
        ("e.jsonl", ""),
        ("e.jsonl", '{"text": \n'),
    ],
)
def test_a_file_with_nothing_in_it_is_refused(name, content, tmp_path):
    """Empty, a header alone, or broken: one error that names the file."""
    path = tmp_path / name
    path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=rf"e\.{path.suffix[1:]}"):
        read_files(path, write(tmp_path / "test.csv", TEST))


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_empty_texts_are_counted(kind, tmp_path):
    """Spaces alone are empty too; such a row would be classified by its padding."""
    rows = [*ROWS, {"text": "", "label": "cat"}, {"text": "  ", "label": "dog"}]
    with pytest.raises(InputError, match="2 of 82 texts are empty"):
        read(tmp_path, rows, kind=kind)


@pytest.mark.parametrize("kind", ["json", "jsonl"])
@pytest.mark.parametrize("row", [{"text": None, "label": "cat"}, {"text": "a", "label": None}])
def test_a_row_without_text_or_label_is_refused(kind, row, tmp_path):
    """null is neither the text "None" nor a class of its own."""
    with pytest.raises(InputError, match=r"1 of 81 texts (are empty|have no label)"):
        read(tmp_path, [*ROWS, row], kind=kind)


def test_an_empty_label_is_refused(tmp_path):
    """In a CSV it is a comma with nothing behind; it would be a class without a name."""
    with pytest.raises(InputError, match="1 of 81 texts have no label"):
        read(tmp_path, [*ROWS, {"text": "a", "label": ""}])


def test_one_label_is_nothing_to_tell_apart(tmp_path):
    """The message says which and how many."""
    with pytest.raises(InputError, match="all 20 texts have the label 'cat'"):
        read(tmp_path, ROWS[:20])


def test_a_label_that_only_the_test_file_has_is_refused(tmp_path):
    """No model can give it: accuracy would be capped without a word."""
    with pytest.raises(InputError, match="label 'bird' is not among the 3"):
        read(tmp_path, ROWS, [*TEST, {"text": "tweet", "label": "bird"}])


def test_a_file_of_another_kind_or_none_is_refused(tmp_path):
    """The endings that are read are named."""
    good = write(tmp_path / "good.csv", ROWS)
    with pytest.raises(InputError, match=r"none\.csv is not a file"):
        read_files(tmp_path / "none.csv", good)
    other = tmp_path / "texts.parquet"
    other.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"must end with \.csv, \.json, \.jsonl"):
        read_files(good, other)


@pytest.mark.parametrize("other", ["train.csv", "folder/../train.csv", "link.csv"])
def test_one_file_for_training_and_judging_is_refused(other, tmp_path):
    """Whatever name it is given by the second time: accuracy would be that of memory."""
    train = write(tmp_path / "train.csv", ROWS)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.csv").symlink_to(train)
    with pytest.raises(InputError, match=r"same file, .*train\.csv"):
        read_files(train, tmp_path / other)
    copied = write(tmp_path / "copy.csv", ROWS)
    assert len(read_files(train, copied).test) == len(ROWS)
