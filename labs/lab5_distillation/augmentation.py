"""More texts for the teacher to answer: masked words, like words, short stretches.

The teacher labels what comes out, softly, so a change need not keep the label: a text between two
intents shows more of the teacher than one that is clear. What is made has no label (-1).

Everything is done on token ids. What surrounds a text, [CLS] and [SEP], is never touched, and no
text grows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab5_distillation.encoders import TextClassifier
from labs.lab5_distillation.tokens import Batch, Batches, Tokens, TokenSet
from labs.lab5_distillation.word_neighbours import Words, neighbour_table, words_of


@dataclass(frozen=True)
class Rates:
    """How often what is done. The defaults are those of Tang et al. (2019), section 3.2.

    Attributes
    ----------
    mask
        Probability that a token becomes [MASK].
    replace
        Probability that a word becomes one of its neighbours (there: a word of the same part of
        speech; TinyBERT replaces by neighbours, at a rate of 0.4).
    ngram
        Probability that of a text only a stretch of 1 to ``longest`` tokens is kept.
    """

    mask: float = 0.1
    replace: float = 0.1
    ngram: float = 0.25
    longest: int = 5

    def __post_init__(self) -> None:
        for name in ("mask", "replace", "ngram"):
            rate = getattr(self, name)
            require(0 <= rate <= 1, name, rate, "must be from 0 to 1")
        both = self.mask + self.replace
        require(both <= 1, "mask + replace", both, "must be at most 1: a token has one fate")
        require(self.longest >= 1, "longest", self.longest, "must be at least 1")


@dataclass(frozen=True)
class Augmenter:
    """A vocabulary, the neighbours of its words (int64 [V, k]) and how often what is done."""

    words: Words
    neighbours: NDArray[np.int64]
    rates: Rates = Rates()


def augmenter(
    tokens: Tokens,
    model: TextClassifier,
    texts: TokenSet,
    *,
    k: int = 15,
    rates: Rates = Rates(),
) -> Augmenter:
    """An `Augmenter` whose neighbours come from a model's own word vectors.

    Parameters
    ----------
    texts
        Those to be augmented; only their words are looked up.
    k
        Neighbours of a word.
    """
    words = words_of(tokens.vocabulary)
    encoder: Any = model.encoder
    table = encoder.get_input_embeddings().weight.detach().float().cpu().numpy()
    return Augmenter(words, neighbour_table(table, words, texts.ids, k), rates)


@exercise(
    "5.14",
    points=10,
    title="Mask a word, or take a like one",
    hint="One uniform number a token decides between three fates. Which tokens have only one?",
)
def noisy_tokens(
    ids: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    *,
    special: NDArray[np.bool_],
    whole: NDArray[np.bool_],
    mask_id: int,
    mask: float,
    replace: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Each token becomes [MASK], or one of its neighbours, or stays.

    ``u ~ U(0, 1)`` for each token on its own: [MASK] where ``u < mask``; where
    ``mask <= u < mask + replace`` one of its k neighbours, each as likely; else itself.

    Parameters
    ----------
    ids
        Token ids of any shape; left as they are.
    neighbours
        Token ids [V, k]: row i are the neighbours of token i.
    special
        Bool, the shape of ``ids``: [CLS], [SEP], padding. Neither masked nor replaced.
    whole
        Bool, the shape of ``ids``: a word in one token. Only these are replaced; a part of a word
        may be masked.
    mask, replace
        Probabilities; their sum is at most 1.
    rng
        All chance comes from it.

    Returns
    -------
    int64, the shape of ``ids``

    Notes
    -----
    Tang et al. (2019), Distilling Task-Specific Knowledge from BERT into Simple Neural Networks,
    arXiv 1903.12136, section 3.2.
    """
    u = rng.random(ids.shape)
    drawn = neighbours[ids, rng.integers(0, neighbours.shape[1], ids.shape)]
    found = np.where(whole & (u >= mask) & (u < mask + replace), drawn, ids)
    return np.where(special, ids, np.where(u < mask, mask_id, found))


def kept_by_ngrams(
    special: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    *,
    ngram: float,
    longest: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Which tokens stay when some texts are cut to a stretch: bool, the shape of ``special``.

    Of each text, with probability ``ngram``, only n tokens in a row stay, n uniform in 1 to
    ``longest`` and no more than there are, at a place that is uniform too. Special tokens stay.

    Parameters
    ----------
    special
        Bool [total]: the texts one after another.
    lengths
        Tokens of each text [N]; their sum is ``total``.
    """
    text = np.repeat(np.arange(len(lengths)), lengths)
    ordinary = ~special
    size = np.bincount(text[ordinary], minlength=len(lengths))
    before = np.concatenate([[0], np.cumsum(size)[:-1]])
    place = np.cumsum(ordinary) - 1 - before[text]  # of an ordinary token, within its text
    n = np.minimum(rng.integers(1, longest + 1, len(lengths)), size)
    start = rng.integers(0, size - n + 1)
    whole_text = rng.random(len(lengths)) >= ngram
    inside = (place >= start[text]) & (place < (start + n)[text])
    kept: NDArray[np.bool_] = special | whole_text[text] | inside
    return kept


def augment(
    texts: TokenSet, made_by: Augmenter, *, copies: int, seed: int | Sequence[int]
) -> TokenSet:
    """``copies`` of every text, each changed by chance, all unlabelled (-1).

    Copy j of text i is row ``j * len(texts) + i``: no row is one of ``texts``, so logits cached
    for those must not be looked up. Ten copies of CLINC150 take a second or two.

    Parameters
    ----------
    seed
        Non-negative; the same seed gives the same texts.

    Raises
    ------
    InputError
        ``copies`` < 1, or an id that the vocabulary lacks.

    Notes
    -----
    Tang et al. (2019), arXiv 1903.12136, section 3.2, with neighbours in the encoder's space in
    place of words of the same part of speech.
    """
    require(copies >= 1, "copies", copies, "must be at least 1")
    rng = np.random.default_rng(seed)
    words, rates = made_by.words, made_by.rates
    lengths = np.tile(texts.lengths, copies)
    ids = np.tile(np.concatenate([np.asarray(each, np.int64) for each in texts.ids]), copies)
    if ids.max() >= len(words):
        raise InputError(f"token id {ids.max()} is outside the vocabulary of {len(words)} tokens")
    goes_on = np.append(words.piece[ids[1:]], False)
    special = words.special[ids]
    noisy = noisy_tokens(
        ids,
        made_by.neighbours,
        special=special,
        whole=words.whole[ids] & ~goes_on,
        mask_id=words.mask_id,
        mask=rates.mask,
        replace=rates.replace,
        rng=rng,
    )
    kept = kept_by_ngrams(special, lengths, ngram=rates.ngram, longest=rates.longest, rng=rng)
    ends = np.cumsum(lengths)
    left = np.cumsum(kept)[ends - 1]
    flat = noisy[kept].tolist()
    starts = np.concatenate([[0], left[:-1]])
    made = [flat[a:b] for a, b in zip(starts.tolist(), left.tolist(), strict=True)]
    return TokenSet(made, np.full(len(made), -1, np.int64), texts.device)


def joined(first: TokenSet, second: TokenSet) -> TokenSet:
    """The rows of one set and then those of another, labels as they are."""
    labels = np.concatenate([first.labels, second.labels])
    return TokenSet(first.ids + second.ids, labels, first.device)


class AugmentedBatches:
    """Batches of texts that are augmented anew in every epoch.

    An epoch holds each text once, changed. It depends on the seed and the epoch alone, as
    `Batches` do, so a resumed run goes on with the texts that it would have seen. ``rows`` start
    at ``len(texts)``: logits cached for ``texts`` have no such row, and a `CachedTeacher` of them
    fails at once where it would have taught the logits of other texts. Ask a `FrozenTeacher`.
    """

    def __init__(self, texts: TokenSet, made_by: Augmenter, size: int = 32, seed: int = 0) -> None:
        require(size >= 1, "size", size, "must be at least 1")
        self.texts, self.made_by, self.size, self.seed = texts, made_by, size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.texts) // self.size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the changes and the order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        made = augment(self.texts, self.made_by, copies=1, seed=[self.seed, self.epoch])
        yield from _shifted(made, self.size, self.seed, self.epoch, len(self.texts))


class PooledBatches:
    """Batches of a set of copies that was drawn once, one copy an epoch.

    ``pool`` is what `augment` gave for ``n`` texts. Its logits can be cached, for ``rows`` are
    places in the pool: the teacher is asked ``copies`` times and every student learns from that.
    After ``copies`` epochs the first copy comes again.
    """

    def __init__(self, pool: TokenSet, n: int, size: int = 32, seed: int = 0) -> None:
        require(size >= 1, "size", size, "must be at least 1")
        require(n >= 1 and len(pool) % n == 0, "n", n, f"must divide the pool's {len(pool)} texts")
        self.pool, self.n, self.size, self.seed, self.epoch = pool, n, size, seed, 0

    def __len__(self) -> int:
        return -(-self.n // self.size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the copy and the order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        first = self.epoch % (len(self.pool) // self.n) * self.n
        part = slice(first, first + self.n)
        copy = TokenSet(self.pool.ids[part], self.pool.labels[part], self.pool.device)
        yield from _shifted(copy, self.size, self.seed, self.epoch, first)


def _shifted(texts: TokenSet, size: int, seed: int, epoch: int, by: int) -> Iterator[Batch]:
    """Batches whose rows are counted from ``by``."""
    batches = Batches(texts, size, seed)
    batches.set_epoch(epoch)
    for batch in batches:
        yield Batch(batch.input_ids, batch.attention_mask, batch.labels, batch.rows + by)
