"""Augmented texts: marks untouched, rates right, the same from the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation import augmentation
from labs.lab5_distillation.augmentation import Augmenter, Rates
from labs.lab5_distillation.objectives import CachedTeacher
from labs.lab5_distillation.tokens import TokenSet
from labs.lab5_distillation.word_neighbours import Words

SIZE, CLS, SEP, MASK = 40, 1, 2, 3
PIECES = range(30, 40)
K = 4
# Of word i the neighbours are 1000 i + 0, 1, 2, 3: any replacement names the word it came from.
MARKED = 1000 * np.arange(SIZE)[:, None] + np.arange(K)


def noisy(ids, *, mask, replace, seed=0, special=None, whole=None):
    ids = np.asarray(ids)
    special = ids < 4 if special is None else special
    whole = (ids >= 4) & (ids < 30) if whole is None else whole
    return augmentation.noisy_tokens(
        ids,
        MARKED,
        special=special,
        whole=whole,
        mask_id=MASK,
        mask=mask,
        replace=replace,
        rng=np.random.default_rng(seed),
    )


@pytest.mark.exercise("5.14")
def test_special_tokens_are_never_touched():
    """A text without its [CLS] is no text that the encoder was trained on."""
    ids = np.array([[CLS, 5, 35, SEP, 0], [CLS, 6, SEP, 0, 0]] * 50)
    for mask, replace in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
        found = noisy(ids, mask=mask, replace=replace, whole=ids >= 0)
        special = ids < 4
        assert (found[special] == ids[special]).all(), (
            f"mask {mask}, replace {replace}: special tokens became "
            f"{sorted(set(found[special].tolist()))}, expected {sorted(set(ids[special].tolist()))}"
        )
        assert found.shape == ids.shape, f"shape {found.shape}, expected {ids.shape}"


@pytest.mark.exercise("5.14")
@settings(derandomize=True, deadline=None, max_examples=20)
@given(mask=st.floats(0, 1), share=st.floats(0, 1), seed=st.integers(0, 999))
def test_one_draw_decides_between_three_fates(mask, share, seed):
    """P(masked) = mask and P(replaced) = replace, of all tokens.

    A second draw for the tokens that were not masked replaces replace * (1 - mask) of them.
    """
    replace = share * (1 - mask)
    n = 20_000
    ids = np.full(n, 7)
    found = noisy(ids, mask=mask, replace=replace, seed=seed)
    masked, replaced = float((found == MASK).mean()), float((found >= 1000).mean())
    for name, value, expected in (("mask", masked, mask), ("replace", replaced, replace)):
        error = 5 * np.sqrt(max(expected * (1 - expected), 1 / n) / n)
        assert abs(value - expected) <= error, (
            f"{name}: {value:.4f} of the tokens, expected {expected:.4f} within {error:.4f}"
        )


@pytest.mark.exercise("5.14")
def test_a_word_becomes_one_of_its_own_neighbours_each_as_likely():
    """Always the nearest would make one new text of each, however many copies are drawn."""
    ids = np.tile(np.arange(4, 30), 400)
    found = noisy(ids, mask=0.0, replace=1.0)
    assert (found // 1000 == ids).all(), "a word was replaced by the neighbour of another"
    counts = np.bincount(found % 1000, minlength=K)
    expected = len(ids) / K
    even = len(counts) == K and (abs(counts - expected) < 5 * np.sqrt(expected)).all()
    assert even, (
        f"neighbours 0 to {K - 1} were drawn {counts.tolist()} times, expected about {expected:.0f}"
    )


@pytest.mark.exercise("5.14")
def test_a_part_of_a_word_is_masked_but_not_replaced():
    """ "##ing" has no synonym; without it the word is another one, which the mask leaves open."""
    ids = np.full(5000, PIECES[0])
    found = noisy(ids, mask=0.3, replace=0.7)
    assert set(np.unique(found).tolist()) == {MASK, PIECES[0]}, (
        f"a piece became {np.unique(found).tolist()[:5]}, expected {MASK} or itself"
    )


@pytest.mark.exercise("5.14")
def test_chance_comes_from_the_generator_alone_and_the_texts_stay():
    """Equal seeds, equal texts: a resumed run goes on as it would have. Unequal ones differ.

    A generator of its own would give every epoch the same masks.
    """
    ids = np.random.default_rng(1).integers(4, SIZE, (20, 10))
    before = ids.copy()
    first, again, other = (noisy(ids, mask=0.3, replace=0.3, seed=seed) for seed in (5, 5, 6))
    assert (ids == before).all(), f"{(ids != before).sum()} tokens of the original changed"
    assert (first == again).all(), f"seed 5 twice: {(first != again).sum()} of 200 tokens differ"
    assert (first != other).sum() > 40, (
        f"seeds 5 and 6 differ in {(first != other).sum()} of 200 tokens, expected about 90"
    )


# Whole texts: token sets.


def words():
    every = np.arange(SIZE)
    return Words(every < 4, every >= 30, (every >= 4) & (every < 30), MASK)


def made_by(**rates):
    neighbours = np.repeat(np.arange(SIZE)[:, None], K, axis=1)
    neighbours[4:30] = (np.arange(4, 30)[:, None] - 4 + np.arange(1, K + 1)) % 26 + 4
    return Augmenter(words(), neighbours, Rates(**rates))


def texts(n=50, seed=0, shortest=1):
    rng = np.random.default_rng(seed)
    ids = [
        [CLS, *rng.integers(4, SIZE, int(rng.integers(shortest, 12))).tolist(), SEP]
        for _ in range(n)
    ]
    return TokenSet(ids, np.arange(n) % 3)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    mask=st.floats(0, 0.5), replace=st.floats(0, 0.5), ngram=st.floats(0, 1),
    copies=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_copies_begin_and_end_as_texts_do_and_none_grows(mask, replace, ngram, copies, seed):
    """Unlabelled, one after the other, and never longer than what the models read."""
    originals = texts(shortest=0)
    made = augmentation.augment(
        originals, made_by(mask=mask, replace=replace, ngram=ngram), copies=copies, seed=seed
    )
    assert len(made) == copies * len(originals)
    assert (made.labels == -1).all()
    for row, ids in enumerate(made.ids):
        original = originals.ids[row % len(originals)]
        assert ids[0] == CLS
        assert ids[-1] == SEP
        assert len(ids) <= len(original)
        assert not {CLS, SEP} & set(ids[1:-1])
        assert len(ids) >= min(3, len(original)), "nothing of the text is left"


def test_ngrams_are_stretches_of_the_text():
    """With ngram=1 and no other change each copy is 1 to 5 tokens in a row, from anywhere."""
    originals = texts(400, shortest=9)
    made = augmentation.augment(originals, made_by(mask=0, replace=0, ngram=1), copies=1, seed=0)
    sizes, first_words = set(), 0
    for ids, original in zip(made.ids, originals.ids, strict=True):
        body, whole = ids[1:-1], original[1:-1]
        places = [at for at in range(len(whole)) if whole[at : at + len(body)] == body]
        assert places, f"{body} is no stretch of {whole}"
        sizes.add(len(body))
        first_words += places[0] == 0
    assert sizes == {1, 2, 3, 4, 5}
    assert first_words < 120, "a stretch starts anywhere, not at the first word"


def test_the_share_of_cut_texts_is_the_rate():
    """A rate of 0.25 that cut every text would lose what the teacher knows of whole ones."""
    originals = texts(4000, shortest=8)
    made = augmentation.augment(originals, made_by(mask=0, replace=0, ngram=0.25), copies=1, seed=3)
    cut = float((made.lengths < originals.lengths).mean())
    assert cut == pytest.approx(0.25, abs=0.03)
    untouched = [ids for ids, o in zip(made.ids, originals.ids, strict=True) if ids == o]
    assert len(untouched) == round((1 - cut) * 4000)


def test_a_word_in_two_tokens_is_not_replaced_by_half():
    """ "play" before "##ing" is no word of its own: a synonym there makes no word at all."""
    alone = TokenSet([[CLS, 7, SEP]] * 200, np.zeros(200, np.int64))
    split = TokenSet([[CLS, 7, 35, SEP]] * 200, np.zeros(200, np.int64))
    rates = made_by(mask=0, replace=1, ngram=0)
    assert all(ids[1] != 7 for ids in augmentation.augment(alone, rates, copies=1, seed=0).ids)
    assert augmentation.augment(split, rates, copies=1, seed=0).ids == split.ids


def test_bad_rates_copies_and_ids_are_refused():
    """Each names the value and the limit."""
    for bad, message in (
        ({"mask": 1.5}, r"mask = 1\.5 must be from 0 to 1"),
        ({"mask": 0.6, "replace": 0.6}, r"mask \+ replace = 1\.2 must be at most 1"),
        ({"longest": 0}, "longest = 0 must be at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            Rates(**bad)
    with pytest.raises(InputError, match="copies = 0"):
        augmentation.augment(texts(), made_by(), copies=0, seed=0)
    with pytest.raises(InputError, match="token id 99 is outside the vocabulary of 40"):
        augmentation.augment(TokenSet([[1, 99, 2]], np.array([0])), made_by(), copies=1, seed=0)


def test_sets_are_joined_in_order_with_their_labels():
    """Originals keep their labels; what was made of them has none."""
    originals = texts()
    made = augmentation.augment(originals, made_by(), copies=2, seed=0)
    both = augmentation.joined(originals, made)
    assert len(both) == 150
    assert both.ids[:50] == originals.ids
    assert both.ids[50:] == made.ids
    assert (both.labels[:50] == originals.labels).all()
    assert (both.labels[50:] == -1).all()


# Loaders.


def epoch_of(loader, epoch):
    loader.set_epoch(epoch)
    return [
        (row, tuple(ids[:length]))
        for batch in loader
        for row, ids, length in zip(
            batch.rows.tolist(), batch.input_ids.tolist(), batch.attention_mask.sum(1).tolist(),
            strict=True,
        )
    ]  # fmt: skip


def test_each_epoch_is_new_and_can_be_had_again():
    """A run resumed in epoch 3 sees epoch 3 as it would have been, without the first two."""
    originals = texts()
    loader = augmentation.AugmentedBatches(originals, made_by(), size=8, seed=4)
    first, second = epoch_of(loader, 0), epoch_of(loader, 1)
    resumed = epoch_of(augmentation.AugmentedBatches(originals, made_by(), size=8, seed=4), 1)
    assert second == resumed
    assert sorted(ids for _, ids in first) != sorted(ids for _, ids in second)
    assert len(loader) == 7
    assert len(first) == len(originals)


def test_logits_cached_for_the_originals_cannot_be_looked_up():
    """Row 5 of an augmented set is no row of the cache: an error, not another text's logits."""
    import torch

    originals = texts()
    teacher = CachedTeacher(torch.zeros(len(originals), 3))
    batch = next(iter(augmentation.AugmentedBatches(originals, made_by(), size=8, seed=4)))
    with pytest.raises(IndexError):
        teacher(batch)


def test_a_pool_gives_one_copy_an_epoch_with_rows_of_the_pool():
    """So logits cached for the pool are found; after the last copy the first comes again."""
    originals = texts()
    pool = augmentation.augment(originals, made_by(), copies=3, seed=0)
    loader = augmentation.PooledBatches(pool, len(originals), size=8, seed=4)
    for epoch in range(4):
        seen = epoch_of(loader, epoch)
        copy = epoch % 3
        assert sorted(row for row, _ in seen) == list(range(50 * copy, 50 * copy + 50))
        assert all(tuple(pool.ids[row]) == ids for row, ids in seen)
    with pytest.raises(InputError, match="n = 49 must divide the pool's 150 texts"):
        augmentation.PooledBatches(pool, 49)
