"""Texts as ids: what a batch holds, in which order batches come, and who may share ids."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.labelled_texts import Part
from common.errors import InputError
from labs.lab5_distillation.tokens import Batches, Tokens, TokenSet, require_same_tokens
from tests.lab5_distillation.conftest import make_texts
from tests.lab5_distillation.families import WORDS, save


def part(*texts):
    return Part(list(texts), np.arange(len(texts), dtype=np.int64))


def test_a_long_text_is_cut_with_its_special_tokens_kept(tmp_path):
    """[SEP] still ends it; cutting the ids afterwards would lose that."""
    tokens = Tokens(save(tmp_path), 6)
    short, long = tokens.encode(part("a b", "a b c d e f g")).ids
    a = WORDS.index("a")
    assert short == [1, a, a + 1, 2]
    assert long == [1, a, a + 1, a + 2, a + 3, 2]


@pytest.mark.parametrize("limit", [0, 2, 41])
def test_a_text_longer_than_the_encoder_is_refused_before_it_crashes(limit, tmp_path):
    """40 positions: the message says from where to where."""
    with pytest.raises(InputError, match="must be from 3 to 40"):
        Tokens(save(tmp_path), limit)


def test_no_texts_are_refused(tmp_path):
    """Nothing to learn from, nothing to judge on."""
    with pytest.raises(InputError, match="no texts"):
        Tokens(save(tmp_path), 8).encode(part())


def test_a_vocabulary_in_another_order_is_refused_by_its_first_word(tmp_path):
    """The same words, two of them swapped: every shape agrees, and every text is another."""
    teacher = Tokens(save(tmp_path / "one"), 8)
    swapped = [*WORDS[:-2], WORDS[-1], WORDS[-2]]
    student = Tokens(save(tmp_path / "two", words=swapped), 8)
    with pytest.raises(InputError, match=r"differ in 2 of 33 tokens \('##s' is 31 and 32\)"):
        require_same_tokens(teacher, student)
    longer = Tokens(save(tmp_path / "three", words=[*WORDS, "new"], vocab_size=34), 8)
    with pytest.raises(InputError, match=r"differ in 1 of 33 tokens \('new' is None and 33\)"):
        require_same_tokens(teacher, longer)


def test_another_limit_is_refused(tmp_path):
    """The student would be asked about texts of which the teacher saw another part."""
    name = save(tmp_path)
    require_same_tokens(Tokens(name, 8), Tokens(name, 8))
    with pytest.raises(InputError, match="8 tokens and the student 9"):
        require_same_tokens(Tokens(name, 8), Tokens(name, 9))


def test_a_batch_is_padded_to_its_longest_text():
    """Ids where the mask is 1, padding where it is 0, rows and labels beside them."""
    texts = TokenSet([[1, 5, 2], [1, 5, 6, 7, 2], [1, 2]], np.array([4, 0, 2]))
    batch = texts.batch(np.array([2, 0]))
    assert batch.input_ids.tolist() == [[1, 2, 0], [1, 5, 2]]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.labels.tolist() == [2, 4]
    assert batch.rows.tolist() == [2, 0]
    assert len(batch) == 2
    assert all(
        each.dtype == torch.int64
        for each in (batch.input_ids, batch.attention_mask, batch.labels, batch.rows)
    )


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    n=st.integers(1, 40),
    size=st.integers(1, 50),
    seed=st.none() | st.integers(0, 9),
    epoch=st.integers(0, 3),
)
def test_every_text_comes_once_an_epoch(n, size, seed, epoch):
    """None twice, none left out, whatever the size of the batches."""
    loader = Batches(make_texts(n), size, seed)
    loader.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader)
    rows = torch.cat([batch.rows for batch in batches]).tolist()
    assert sorted(rows) == list(range(n))
    assert max(len(batch) for batch in batches) <= size


def test_an_epoch_depends_on_its_seed_and_number_alone():
    """A run that resumes in epoch 2 sees what it would have seen; no epoch repeats another."""
    texts = make_texts(60)

    def rows(seed, epoch):
        loader = Batches(texts, 8, seed)
        loader.set_epoch(epoch)
        return [batch.rows.tolist() for batch in loader]

    fresh = rows(1, 2)
    walked = Batches(texts, 8, 1)
    for epoch in range(3):
        walked.set_epoch(epoch)
        found = [batch.rows.tolist() for batch in walked]
    assert found == fresh
    assert fresh != rows(1, 1)
    assert fresh != rows(2, 2)


def test_texts_of_like_length_stand_together():
    """Less than half of the padding of batches in any order, and the order still changes."""
    texts = make_texts(400)
    batches = list(Batches(texts, 16, 0))
    padding = sum(int((batch.attention_mask == 0).sum()) for batch in batches)
    shuffled = np.random.default_rng(0).permutation(400)
    chunks = [shuffled[at : at + 16] for at in range(0, 400, 16)]
    plain = sum(int((texts.batch(rows).attention_mask == 0).sum()) for rows in chunks)
    assert padding < plain / 2
    first = [int(batch.attention_mask.sum(1).max()) for batch in batches]
    assert first != sorted(first), "short texts first would be a curriculum that nobody chose"


def test_evaluation_goes_by_length():
    """Without a seed the batches are the same every time, shortest first."""
    lengths = [batch.input_ids.shape[1] for batch in Batches(make_texts(50), 8)]
    assert lengths == sorted(lengths)


def test_texts_and_labels_of_different_numbers_are_refused():
    """A label too many would shift every one behind it."""
    with pytest.raises(InputError, match="2 texts and 3 labels"):
        TokenSet([[1, 2], [1, 2]], np.array([0, 1, 2]))
    with pytest.raises(InputError, match="size"):
        Batches(make_texts(4), 0)


def test_texts_without_labels_keep_all_else(tiny_texts):
    """For distillation without labels: -1 in each place, and the labelled ones as they were."""
    bare = tiny_texts.without_labels()
    assert set(bare.labels.tolist()) == {-1}
    assert bare.ids == tiny_texts.ids
    assert min(tiny_texts.labels) >= 0
