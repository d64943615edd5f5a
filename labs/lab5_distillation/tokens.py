"""Texts as token ids, in batches of like lengths that both models read.

Teacher and student get the same ids, so they must have been made by the same tokenizer:
`require_same_tokens` is asked before one learns from the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.data.labelled_texts import Part
from common.errors import InputError, require
from labs.lab5_distillation.encoders import max_tokens_of, tokenizer_of

PADDING = 0


class Tokens:
    """The tokenizer of an encoder, cut at ``max_tokens`` with its special tokens included.

    Parameters
    ----------
    name
        See `encoders.folder_of`: ``"minilm"``, a name on the Hub, or a folder.

    Raises
    ------
    InputError
        ``max_tokens`` below 3 or above what the encoder has positions for; an encoder that
        cannot be had.
    """

    def __init__(self, name: str = "minilm", max_tokens: int = 32) -> None:
        limit = max_tokens_of(name)
        require(
            3 <= max_tokens <= limit,
            "max_tokens",
            max_tokens,
            f"must be from 3 to {limit}, the positions that {name} has",
            "longer texts are cut there",
        )
        self.name, self.max_tokens = name, max_tokens
        self._tokenizer = tokenizer_of(name)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token and its id."""
        found: dict[str, int] = self._tokenizer.get_vocab()
        return found

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included; no padding."""
        return [each.ids for each in self._tokenizer.encode_batch_fast(list(texts))]

    def encode(self, part: Part, device: str | torch.device = "cpu") -> TokenSet:
        """A part of a split as a `TokenSet`."""
        if not len(part):
            raise InputError("no texts: there is nothing to learn from or to judge on")
        return TokenSet(self.ids(part.texts), part.labels, device)


def require_same_tokens(teacher: Tokens, student: Tokens) -> None:
    """Refuse a pair that reads the same ids as different words.

    Raises
    ------
    InputError
        Different vocabularies or different limits.
    """
    ours, theirs = student.vocabulary, teacher.vocabulary
    if ours != theirs:
        differ = {
            word for word in ours.keys() | theirs.keys() if ours.get(word) != theirs.get(word)
        }
        word = min(differ)
        raise InputError(
            f"the tokenizers of {teacher.name} and {student.name} differ in {len(differ)} of "
            f"{len(theirs)} tokens ({word!r} is {theirs.get(word)} and {ours.get(word)}); "
            "choose a student with the teacher's vocabulary"
        )
    if teacher.max_tokens != student.max_tokens:
        raise InputError(
            f"the teacher reads {teacher.max_tokens} tokens and the student {student.max_tokens}"
        )


@dataclass(frozen=True)
class Batch:
    """Texts of like length: ids and mask int64 [B, L], labels int64 [B].

    ``rows`` int64 [B] are their places in the `TokenSet`: what is known of a text beforehand, such
    as a teacher's cached logits, is found by them.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TokenSet:
    """Token ids of N texts and their labels [N]; a label of -1 is not known."""

    ids: list[list[int]]
    labels: NDArray[np.int64]
    device: str | torch.device = "cpu"
    lengths: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels):
            raise InputError(f"{len(self.ids)} texts and {len(self.labels)} labels")
        object.__setattr__(self, "lengths", np.array([len(ids) for ids in self.ids], np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The given rows, padded to the longest of them."""
        lengths = self.lengths[rows]
        mask = np.arange(int(lengths.max())) < lengths[:, None]
        ids = np.full(mask.shape, PADDING, np.int64)
        ids[mask] = np.concatenate([self.ids[row] for row in rows])
        arrays = (ids, mask.astype(np.int64), self.labels[rows], np.asarray(rows, np.int64))
        return Batch(*(torch.from_numpy(array).to(self.device) for array in arrays))

    def without_labels(self) -> TokenSet:
        """The same texts, unlabelled."""
        return replace(self, labels=np.full_like(self.labels, -1))


class Batches:
    """Batches of a `TokenSet`.

    With a seed: texts of like length together, so that little is computed on padding, in another
    order each epoch, which depends on the seed and the epoch alone: a resumed run sees the batches
    that it would have seen. Without one: by length, each text once, for evaluation.

    Attributes
    ----------
    epoch
        Set it before iterating; it is 0 at first.
    """

    JITTER = 3.0  # tokens of noise on the length that texts are sorted by

    def __init__(self, texts: TokenSet, size: int = 32, seed: int | None = None) -> None:
        require(size >= 1, "size", size, "must be at least 1")
        self.texts, self.size, self.seed, self.epoch = texts, size, seed, 0

    def __len__(self) -> int:
        return -(-len(self.texts) // self.size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order, as ``DistributedSampler.set_epoch`` does."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        for rows in self.order():
            yield self.texts.batch(rows)

    def order(self) -> list[NDArray[np.int64]]:
        """Rows of each batch of this epoch."""
        noise: NDArray[np.float64] | float = 0.0
        rng = None if self.seed is None else np.random.default_rng([self.seed, self.epoch])
        if rng is not None:
            noise = rng.uniform(0, self.JITTER, len(self.texts))
        order = np.argsort(self.texts.lengths + noise, kind="stable")
        chunks = [order[at : at + self.size] for at in range(0, len(order), self.size)]
        return chunks if rng is None else [chunks[i] for i in rng.permutation(len(chunks))]
