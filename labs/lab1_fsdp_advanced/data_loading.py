"""Distributed data loading: every rank its own part of one global order, and none of it state.

The order is a function: an epoch's permutation comes from ``(seed, epoch)``, a step's batch is the
next ``global_batch`` of it, and a rank takes every ``world``-th. So no rank has to be told what the
others read, a run resumes at any step by asking for that step, and another number of ranks reads
the same global batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab1_fsdp_advanced.token_files import read_index, shard_paths


class TokenDataset:
    """Windows of ``context + 1`` tokens of a prepared text, every ``context`` tokens.

    The last token of a window is the first of the next, so that each token but the first of all is
    predicted once an epoch. The files are mapped, not read: a rank touches only its own windows,
    and ranks of one machine share the pages.

    Parameters
    ----------
    folder
        A part of what ``prepare_tokens`` wrote, such as ``.../train``.

    Raises
    ------
    InputError
        When the folder holds no tokens, or fewer than one window.
    RunError
        When a file was cut.
    """

    def __init__(self, folder: Path, context: int) -> None:
        require(context >= 1, "context", context, "must be at least 1")
        about = read_index(folder)
        self.context, self.tokens = context, int(about["tokens"])
        if self.tokens <= context:
            raise InputError(
                f"{folder} has {self.tokens:,} tokens, a window needs {context + 1:,}; give it "
                "more text or a smaller context"
            )
        self._shards = [
            np.memmap(path, dtype=np.dtype(about["dtype"]), mode="r")
            for path in shard_paths(folder)
        ]
        self._starts = np.cumsum([0, *map(len, self._shards)])

    def __len__(self) -> int:
        return (self.tokens - 1) // self.context

    def windows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of the windows with these numbers: [n] -> [n, context + 1].

        Raises
        ------
        InputError
            For a number that is not one of a window.
        """
        for number in (int(np.min(indices)), int(np.max(indices))) if len(indices) else ():
            require(
                0 <= number < len(self), "window", number, f"must be from 0 to {len(self) - 1:,}"
            )
        places = np.asarray(indices)[:, None] * self.context + np.arange(self.context + 1)
        shard = np.searchsorted(self._starts, places, side="right") - 1
        found = np.empty(places.shape, dtype=np.int64)
        for number in np.unique(shard):
            inside = shard == number
            found[inside] = self._shards[number][places[inside] - self._starts[number]]
        return found

    def counts(self, vocabulary: int) -> NDArray[np.int64]:
        """How often each token occurs: [vocabulary]."""
        return np.sum([np.bincount(s, minlength=vocabulary) for s in self._shards], axis=0)


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, windows: int) -> NDArray[np.int64]:
    """A permutation of ``windows``, drawn anew each epoch: [windows], read-only."""
    order = np.random.default_rng((seed, epoch)).permutation(windows)
    order.setflags(write=False)
    return order


@exercise(
    "1.7",
    points=10,
    title="A loader that needs no state",
    hint="Write down the positions of the step's global batch in one endless stream of windows: "
    "step * global_batch and the following. Which epoch is a position in, and where in that epoch? "
    "Only then ask what is this rank's.",
)
def rank_indices(
    step: int, rank: int, world: int, *, windows: int, global_batch: int, seed: int
) -> NDArray[np.int64]:
    """Numbers of the windows that ``rank`` reads in ``step``.

    All windows are read once an epoch, in an order that is drawn anew each epoch. The global batch
    of step s is the positions ``s * global_batch`` to ``(s + 1) * global_batch - 1`` of the endless
    stream epoch 0, epoch 1, ...; it may begin in one epoch and end in the next. Rank r takes
    positions r, r + world, r + 2 world, ... *of that batch*.

    The answer depends on the arguments only, so any step can be asked for first: that is how a
    stopped run goes on. And the global batch does not depend on ``world``: that is how it goes on
    with another number of ranks.

    Parameters
    ----------
    step
        From 0.
    windows
        In the dataset, >= 1; may be fewer than a global batch.
    global_batch
        Windows of all ranks together, a multiple of ``world``.

    Returns
    -------
    array of int64, [global_batch / world]
        In the order in which the rank reads them. ``epoch_order(seed, epoch, windows)`` is the
        order of an epoch.

    Raises
    ------
    InputError
        When the ranks do not divide the global batch.

    Examples
    --------
    >>> rank_indices(0, 1, 2, windows=100, global_batch=4, seed=0).shape
    (2,)
    """
    require(
        global_batch % world == 0,
        "global_batch",
        global_batch,
        f"must be a multiple of {world} rank(s)",
    )
    positions = step * global_batch + np.arange(rank, global_batch, world)
    epochs, places = np.divmod(positions, windows)
    found = np.empty(len(positions), dtype=np.int64)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        found[inside] = epoch_order(seed, int(epoch), windows)[places[inside]]
    return found


@dataclass(frozen=True)
class TokenBatches:
    """``batches(step, rank, world)`` -> micro-batches of this rank, for ``training.fit``."""

    dataset: TokenDataset
    global_batch: int
    micro_batches: int
    seed: int
    device: torch.device | str = "cpu"

    def __call__(self, step: int, rank: int, world: int) -> list[Tensor]:
        """``micro_batches`` tensors [global_batch / world / micro_batches, context + 1] of int64.

        Raises
        ------
        InputError
            When ranks and micro-batches do not divide the global batch.
        """
        if self.global_batch % (world * self.micro_batches):
            raise InputError(
                f"global_batch = {self.global_batch} must be a multiple of {world} rank(s) x "
                f"{self.micro_batches} micro-batch(es); change one of them"
            )
        mine = rank_indices(
            step,
            rank,
            world,
            windows=len(self.dataset),
            global_batch=self.global_batch,
            seed=self.seed,
        )
        tokens = torch.from_numpy(self.dataset.windows(mine)).to(self.device, non_blocking=True)
        return list(tokens.chunk(self.micro_batches))


def unigram_cross_entropy(train: TokenDataset, validation: TokenDataset, vocabulary: int) -> float:
    """Nats a token of a model that knows nothing but each token's frequency: the line to beat.

    Frequencies of the training text, one added to each count (Laplace), judged on the held-out
    text.
    """
    counts = train.counts(vocabulary) + 1
    log_share = np.log(counts / counts.sum())
    judged = validation.counts(vocabulary)
    return float(-(judged * log_share).sum() / judged.sum())
