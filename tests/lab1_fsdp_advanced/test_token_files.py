"""Tokens on disk: whole or absent, made once, and back to the same text."""

import json
import multiprocessing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError, RunError
from labs.lab1_fsdp_advanced import token_files
from labs.lab1_fsdp_advanced.data_loading import TokenDataset
from labs.lab1_fsdp_advanced.token_files import cached_tokens, prepare_tokens
from labs.lab1_fsdp_advanced.tokenizer import END_OF_DOCUMENT, Tokenizer

TEXTS = [f"Compute the {i}-th value of a list; {i * 7} items at most." for i in range(60)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return prepare_tokens(
        TEXTS, tmp_path_factory.mktemp("made") / "t", vocabulary=300, shard_tokens=200
    )


@settings(derandomize=True, deadline=None, max_examples=50)
@given(text=st.text(max_size=200))
def test_any_text_comes_back_from_its_tokens(text):
    """A byte-level alphabet has no unknown word: emoji, control characters, everything."""
    tokenizer = a_tokenizer()
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


@cache
def a_tokenizer():
    return Tokenizer.train(TEXTS, 300)


def test_the_same_texts_give_the_same_tokenizer():
    ids = [Tokenizer.train(TEXTS, 300).encode(TEXTS[:5]) for _ in range(2)]
    assert [a.tolist() for a in ids[0]] == [b.tolist() for b in ids[1]]


def test_text_that_looks_like_the_end_of_a_document_does_not_end_it():
    tokenizer = a_tokenizer()
    ids = tokenizer.encode([f"a {END_OF_DOCUMENT} b"])[0]
    assert tokenizer.end_of_document not in ids.tolist()


@pytest.mark.parametrize("vocabulary", [256, 70_000])
def test_a_vocabulary_out_of_range_is_refused(vocabulary):
    with pytest.raises(InputError, match=f"vocabulary = {vocabulary} must be between 257"):
        Tokenizer.train(TEXTS, vocabulary)


def test_held_out_documents_are_whole_and_nobody_trains_on_them(made):
    """Every document is in exactly one part, with an end of document after it."""
    tokenizer = made.tokenizer
    documents = {}
    for part in ("train", "validation"):
        stream = np.concatenate(TokenDataset(made.folder / part, 5)._shards)
        text = tokenizer.decode(stream.tolist())
        documents[part] = text.split(END_OF_DOCUMENT)
        assert documents[part].pop() == "", "the last document ends too"
    assert len(documents["validation"]) == 3
    assert sorted(documents["train"] + documents["validation"]) == sorted(TEXTS)
    counts = [len(np.concatenate(TokenDataset(made.folder / p, 5)._shards)) for p in documents]
    assert counts == [made.train_tokens, made.validation_tokens]


def test_what_is_there_already_is_not_made_again(made, monkeypatch):
    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Tokenizer, "train", refuse)
    again = prepare_tokens(TEXTS, made.folder, vocabulary=300, shard_tokens=200)
    assert again == made
    with pytest.raises(AssertionError, match="trained again"):
        prepare_tokens(TEXTS[:-1], made.folder, vocabulary=300, shard_tokens=200)
    assert prepare_tokens(TEXTS, made.folder, vocabulary=300, shard_tokens=200) == made


def test_a_shard_that_was_cut_is_named_with_what_to_do(tmp_path):
    made = prepare_tokens(TEXTS, tmp_path / "t", vocabulary=300, shard_tokens=200)
    shard = made.folder / "train" / "00001.bin"
    shard.write_bytes(shard.read_bytes()[:-10])
    for use in (
        lambda: prepare_tokens(TEXTS, made.folder, vocabulary=300, shard_tokens=200),
        lambda: TokenDataset(made.folder / "train", 5),
    ):
        with pytest.raises(RunError, match=r"00001\.bin has 390 bytes, its index says 400: delete"):
            use()


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(token_files, "write_shards", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare_tokens(TEXTS, tmp_path / "t", vocabulary=300)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_tokens_and_a_broken_index_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no tokens"):
        TokenDataset(tmp_path, 5)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(RunError, match="is not JSON"):
        TokenDataset(tmp_path, 5)


@pytest.mark.parametrize(("texts", "share"), [(TEXTS[:1], 0.05), (TEXTS, 0.001), (TEXTS, 1.0)])
def test_a_split_without_one_of_its_parts_is_refused(tmp_path, texts, share):
    with pytest.raises(InputError, match=r"texts = 1|validation_share"):
        prepare_tokens(texts, tmp_path / "t", vocabulary=300, validation_share=share)


def test_two_processes_at_once_share_one_preparation(tmp_path, monkeypatch):
    """Both get the same folder, whole; nothing else is left in the cache."""
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        folders = pool.map(in_cache, range(2))
    assert folders[0] == folders[1]
    index = json.loads((Path(folders[0]) / "train" / "index.json").read_text())
    assert index["tokens"] > 0
    left = {path.name for path in (tmp_path / "tokens").iterdir()}
    assert left == {Path(folders[0]).name, ".lock"}


def in_cache(_):
    return str(cached_tokens(TEXTS, vocabulary=300).folder)


def test_a_byte_that_changed_is_found_before_it_is_read(tmp_path):
    """A wrong id would be a device assert on a GPU, hours later."""
    made = prepare_tokens(TEXTS, tmp_path / "t", vocabulary=300, shard_tokens=200)
    shard = made.folder / "train" / "00000.bin"
    content = bytearray(shard.read_bytes())
    content[7] ^= 255
    shard.write_bytes(content)
    with pytest.raises(RunError, match=r"00000\.bin has another content"):
        prepare_tokens(TEXTS, made.folder, vocabulary=300, shard_tokens=200)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something else"):
        prepare_tokens(TEXTS, tmp_path, vocabulary=300)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_half_a_surrogate_pair_does_not_stop_the_preparation(tmp_path):
    made = prepare_tokens([*TEXTS, "broken \ud800 text"], tmp_path / "t", vocabulary=300)
    assert made.train_tokens > 0
