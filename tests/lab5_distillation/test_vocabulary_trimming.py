"""Fewer word vectors: exact on texts whose pieces are kept, smaller pieces for the rest."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.labelled_texts import Part
from common.errors import InputError
from labs.lab5_distillation.encoders import classifier, n_parameters
from labs.lab5_distillation.recipe import logits
from labs.lab5_distillation.tokens import Tokens
from labs.lab5_distillation.vocabulary_trimming import pieces_to_keep, read_otherwise, trim
from tests.lab5_distillation.families import save

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ["play", "##ing", "##ed", "walk", "walking", "##er", "the", "dog", "##ay", "pl"]
WORDS = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{c}" for c in LETTERS)]
WORDS += PIECES
NAMES = ("one", "two")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A classifier and its tokens; special tokens are marked, as in real tokenizers."""
    import json

    folder = tmp_path_factory.mktemp("full")
    name = save(folder, words=WORDS, vocab_size=len(WORDS))
    path = folder / "tokenizer.json"
    written = json.loads(path.read_text())
    written["added_tokens"] = [
        {"id": WORDS.index(word), "content": word, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False, "special": True}
        for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    ]  # fmt: skip
    for word, each in written["post_processor"]["special_tokens"].items():
        each["ids"] = [WORDS.index(word)]
    path.write_text(json.dumps(written))
    return classifier(name, NAMES).eval(), Tokens(name, 16)


def part(texts):
    return Part(list(texts), np.zeros(len(texts), np.int64))


TRAIN = ["the walking dog", "playing"]
KNOWN = ["dog walking", "playing the dog", "a dog"]


def test_texts_of_kept_pieces_have_the_same_logits(full, tmp_path):
    """The vectors are the same rows; only their numbers have changed."""
    model, tokens = full
    small = trim(model, tokens, pieces_to_keep(tokens, TRAIN))
    fewer = small.write(tmp_path, 16)
    assert read_otherwise(tokens, fewer, KNOWN) == 0
    ours = logits(small.model, fewer.encode(part(KNOWN)))
    assert torch.equal(ours, logits(model, tokens.encode(part(KNOWN))))
    gone = {"[unused1]", "##ed", "walk", "##er", "##ay", "pl"}
    assert set(tokens.vocabulary) - set(fewer.vocabulary) == gone
    assert n_parameters(model) - n_parameters(small.model) == len(gone) * 32
    assert sorted(fewer.vocabulary.values()) == list(range(len(WORDS) - len(gone)))


def test_a_word_that_is_gone_is_read_in_smaller_pieces(full, tmp_path):
    """Never as [UNK], for single characters stay."""
    model, tokens = full
    fewer = trim(model, tokens, pieces_to_keep(tokens, TRAIN)).write(tmp_path, 16)
    words = {id: piece for piece, id in fewer.vocabulary.items()}
    assert [words[id] for id in fewer.ids(["played"])[0]] == [
        "[CLS]", "play", "##e", "##d", "[SEP]",
    ]  # fmt: skip
    assert read_otherwise(tokens, fewer, ["played", "dog", "walk", "the dog"]) == 0.5


@settings(derandomize=True, deadline=None, max_examples=50)
@given(data=st.data())
def test_whatever_is_kept_a_text_with_its_pieces_is_read_alike(full, data):
    """Greedy longest match: with fewer pieces the longest is the old one, or is not there."""
    model, tokens = full
    words = st.lists(st.text("adeglnoprwy", min_size=1, max_size=8) | st.sampled_from(
        ["playing", "walker", "walked", "dogplay", "theing"]), min_size=1, max_size=4)  # fmt: skip
    text, others = " ".join(data.draw(words)), data.draw(st.lists(words, max_size=2))
    kept = pieces_to_keep(tokens, [text, *map(" ".join, others)], data.draw(st.integers(0, 4)))
    small = trim(model, tokens, kept)
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(small.tokenizer).encode(text).ids
    assert [int(kept[id]) for id in found] == Tokens(tokens.name, 40).ids([text])[0]


def test_a_reserve_takes_the_first_of_the_rest(full):
    """In the order of the vocabulary, placeholders left out; none beyond what there is."""
    _, tokens = full
    base = set(pieces_to_keep(tokens, TRAIN).tolist())
    more = set(pieces_to_keep(tokens, TRAIN, 2).tolist()) - base
    assert more == {WORDS.index("##ed"), WORDS.index("walk")}
    assert len(pieces_to_keep(tokens, TRAIN, 99)) == len(WORDS) - 1


def test_what_is_long_counts_too(full):
    """Pieces beyond the longest text that the model reads are in other texts' beginnings."""
    _, tokens = full
    text = "a " * 30 + "walked"
    assert WORDS.index("##ed") in pieces_to_keep(tokens, [text])


def test_ids_that_no_model_could_use_are_refused(full):
    """Without [UNK] or padding, out of order, or none."""
    model, tokens = full
    kept = pieces_to_keep(tokens, TRAIN)
    with pytest.raises(InputError, match=r"special token \[UNK\] must be kept"):
        trim(model, tokens, kept[kept != WORDS.index("[UNK]")])
    for wrong in (kept[::-1], kept[:0], np.append(kept, kept[-1])):
        with pytest.raises(InputError, match="ascending"):
            trim(model, tokens, wrong)
    with pytest.raises(InputError, match="number of texts"):
        pieces_to_keep(tokens, [])
    with pytest.raises(InputError, match="reserve"):
        pieces_to_keep(tokens, TRAIN, -1)


def test_a_tokenizer_of_another_kind_is_refused(full, tmp_path):
    """BPE builds long pieces out of short ones: without the short ones it cannot."""
    from tokenizers import Tokenizer, models

    folder = tmp_path / "bpe"
    name = save(folder)
    Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])).save(
        str(folder / "tokenizer.json")
    )
    with pytest.raises(InputError, match="of the kind BPE"):
        trim(full[0], Tokens(name, 8), np.arange(3))


@pytest.mark.slow
def test_the_packaged_encoder_loses_words_and_no_meaning(tmp_path):
    """MiniLM with the pieces of three texts and a reserve gives their logits exactly."""
    texts = ["what is my balance", "Transfer $100 to Zoë's account!", "set an alarm"]
    tokens = Tokens("minilm", 32)
    torch.manual_seed(0)
    model = classifier("minilm", NAMES).eval()
    small = trim(model, tokens, pieces_to_keep(tokens, texts, 1000))
    fewer = small.write(tmp_path, 32)
    assert len(small.kept) < 4000
    assert n_parameters(small.model) < n_parameters(model) / 1.8
    ours = logits(small.model, fewer.encode(part(texts)))
    assert torch.equal(ours, logits(model, tokens.encode(part(texts))))
