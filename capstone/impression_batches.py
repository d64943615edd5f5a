"""Which simulated impressions a rank trains on in a step, and how they become one batch.

Everything is a function of (step, rank, world size), so a run that is killed and resumed, on the
same or another number of ranks, reads every impression once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capstone.catalogue import N_CREATORS
from capstone.downsampling import check_share, kept
from capstone.impressions import REACTIONS, ImpressionConfig, Impressions, shard
from capstone.target_ranker import LOGITS, Requests, Vocabulary, age_bucket, labels_of
from common.errors import require

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """One rank's rows of a step, packed: one history, then those rows of its list that were kept.

    Attributes
    ----------
    requests : Requests
        B lists, C candidates each; lists with fewer are filled up with item 0.
    labels : float [B, C, heads]
    weight : float [B, C]
        1 for a row, 0 for filling.
    rows : float
        The usual number of rows of a step, divided by the ranks and their micro-batches. Losses are
        summed and divided by it, so that their mean does not depend on the number of either.
    """

    requests: Requests
    labels: Tensor
    weight: Tensor
    rows: float

    def on(self, device: torch.device | str) -> Batch:
        return replace(
            self,
            requests=self.requests.on(device),
            labels=self.labels.to(device),
            weight=self.weight.to(device),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Lists, and tokens of each: what the blocks compute, filling included."""
        return len(self.weight), self.requests.history.shape[1] + self.weight.shape[1]

    @property
    def real_tokens(self) -> int:
        """Tokens that are no filling."""
        return int((self.requests.history > 0).sum()) + int(self.weight.sum())


@dataclass(frozen=True)
class ReadingPlan:
    """The order in which training reads the shards ``0..train_shards - 1``.

    ``lanes`` shards are read side by side, a part of each in every step, and then the next
    ``lanes``: so every global batch mixes many users and the days still pass in order. A rank has
    the lanes ``rank, rank + world, ...`` and draws no others' shards.

    Attributes
    ----------
    lanes
        At least the number of ranks.
    steps_per_shard
        Parts of a shard; divides ``config.shard_lists``.
    share
        Of the rows without any reaction that are kept; see :mod:`capstone.downsampling`.
    micro_lists
        Lists of one forward pass, on average at most; a step with more accumulates. 0 takes all at
        once. Lists of like length go together, and the passes of a step are about equally large.
    lists_multiple, tokens_multiple
        Batches are filled up to multiples of these, so that their shapes are few: kernels, and the
        plans of cuDNN's attention, are made once a shape.
    """

    config: ImpressionConfig
    train_shards: int
    lanes: int = 8
    steps_per_shard: int = 8
    share: float = 0.1
    micro_lists: int = 0
    lists_multiple: int = 1
    tokens_multiple: int = 1

    def __post_init__(self) -> None:
        check_share(self.share)
        whole = self.config.n_impressions // (self.config.shard_lists * self.config.list_length)
        require(self.lanes >= 1, "lanes", self.lanes, "must be at least 1")
        require(
            self.lanes <= self.train_shards <= whole,
            "train_shards", self.train_shards,
            f"must be from lanes = {self.lanes} to the {whole} whole shards",
        )  # fmt: skip
        require(
            self.steps_per_shard >= 1 and self.config.shard_lists % self.steps_per_shard == 0,
            "steps_per_shard", self.steps_per_shard,
            f"must divide shard_lists = {self.config.shard_lists}",
        )  # fmt: skip
        require(self.micro_lists >= 0, "micro_lists", self.micro_lists, "must be at least 0")
        for name in ("lists_multiple", "tokens_multiple"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")

    @property
    def steps(self) -> int:
        """Steps that read every shard once; up to ``lanes - 1`` last shards are left out."""
        return self.train_shards // self.lanes * self.steps_per_shard

    @property
    def impressions_per_step(self) -> int:
        """Rows of all ranks that a step reads, before downsampling."""
        lists = self.lanes * self.config.shard_lists // self.steps_per_shard
        return lists * self.config.list_length

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.config.n_items, N_CREATORS, len(REACTIONS), self.config.list_length)

    def pieces(self, step: int, rank: int, world: int) -> list[tuple[int, slice]]:
        """Shard numbers and row slices (whole lists) of this rank in this step.

        Raises
        ------
        InputError
            For more ranks than lanes: some would have nothing to read.
        """
        require(world <= self.lanes, "ranks", world, f"must be at most lanes = {self.lanes}")
        turn, part = divmod(step, self.steps_per_shard)
        size = self.config.shard_lists // self.steps_per_shard * self.config.list_length
        rows = slice(part * size, (part + 1) * size)
        return [(turn * self.lanes + lane, rows) for lane in range(rank, self.lanes, world)]

    def row_ids(self, number: int, rows: slice) -> NDArray[np.int64]:
        """Ids of a shard's rows in the whole log, by which they are kept or not: int64 [n]."""
        size = self.config.shard_lists * self.config.list_length
        return number * size + np.arange(rows.start, rows.stop)

    def read(self, step: int, rank: int, world: int) -> tuple[Impressions, Bools]:
        """The rank's impressions of a step, and which of them are kept."""
        parts, masks = [], []
        for number, rows in self.pieces(step, rank, world):
            part = take(cached_shard(self.config, number), rows)
            parts.append(part)
            masks.append(kept(self.row_ids(number, rows), reacted(part), self.share))
        return join(parts), np.concatenate(masks)

    def usual_rows(self) -> float:
        """Kept rows of a step over all ranks, estimated from the first shard."""
        return float(self._first_kept()[1].mean()) * self.impressions_per_step

    def usual_rates(self) -> NDArray[np.float64]:
        """Share of the kept rows with each of ``LOGITS``, estimated from the first shard."""
        first, mask = self._first_kept()
        found = labels_of(vars(take(first, np.flatnonzero(mask)))).mean(axis=0)
        return np.clip(found, 1e-3, 1 - 1e-3).astype(np.float64)

    def _first_kept(self) -> tuple[Impressions, Bools]:
        first = cached_shard(self.config, 0)
        return first, kept(self.row_ids(0, slice(0, first.n)), reacted(first), self.share)

    def micro_batches(self, world: int) -> int:
        """Batches a step of every rank: those of the rank with the most lanes."""
        lists = -(-self.lanes // world) * (self.config.shard_lists // self.steps_per_shard)
        return -(-lists // self.micro_lists) if self.micro_lists else 1

    def batches(self, step: int, rank: int, world: int) -> list[Batch]:
        """The rank's micro-batches of a step: whole lists, as many batches on every rank."""
        impressions, mask = self.read(step, rank, world)
        count = self.micro_batches(world)
        usual, found = self.usual_rows() / world / count, []
        places = np.arange(self.config.list_length)
        for lists in self._parts(impressions, mask, count):
            # A rank with fewer lanes than another may have a batch of no list.
            rows = (lists[:, None] * self.config.list_length + places).ravel()
            packed = pack(
                take(impressions, rows), mask[rows],
                lists_multiple=self.lists_multiple, tokens_multiple=self.tokens_multiple,
            )  # fmt: skip
            found.append(Batch(*packed, usual))
        return found

    def _parts(self, impressions: Impressions, mask: Bools, count: int) -> list[NDArray[np.int64]]:
        """The lists with a kept row in ``count`` parts: of like length, and of as many tokens.

        A batch is as long as its longest history: in the order of the log, half of it is filling.
        """
        rows = mask.reshape(-1, self.config.list_length).sum(axis=1)
        events = (impressions.history[:: self.config.list_length] > 0).sum(axis=1)
        some = np.flatnonzero(rows)
        order = some[np.argsort(-events[some], kind="stable")]
        return np.split(order, even_ends((events + rows.max(initial=1))[order], count))


def even_ends(lengths: NDArray[np.int64], count: int) -> list[int]:
    """Where to cut sequences, longest first, so that the largest of ``count`` batches is smallest.

    Parameters
    ----------
    lengths : int [n]
        Descending. A batch takes its sequences times its first one's length.

    Returns
    -------
    list of int
        ``count - 1`` positions in ascending order, for ``numpy.split``.

    Examples
    --------
    >>> even_ends(np.array([100, 90, 20, 20, 20, 20, 20, 20]), 2)
    [2]
    """

    def ends(limit: int) -> list[int]:
        found, at = [0], 0
        while at < len(lengths):
            at += max(1, limit // int(lengths[at]))
            found.append(min(at, len(lengths)))
        return found[1:]

    least, most = 0, int(lengths.max(initial=1)) * max(1, len(lengths))
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if len(ends(middle)) <= count else (middle, most)
    found = ends(most)
    return (found + [len(lengths)] * (count - len(found)))[: count - 1]


@lru_cache(maxsize=64)
def cached_shard(config: ImpressionConfig, number: int) -> Impressions:
    """A shard, kept while its parts are read: one for each lane of this rank, and the next ones."""
    return shard(config, number)


def reacted(impressions: Impressions) -> Bools:
    """Rows with any reaction at all [n]."""
    return labels_of(vars(impressions))[:, -1] > 0


def take(impressions: Impressions, rows: slice | NDArray[np.int64]) -> Impressions:
    """Some rows, in that order."""
    columns = {each.name: getattr(impressions, each.name)[rows] for each in fields(impressions)}
    return Impressions(**columns)


def join(parts: Sequence[Impressions]) -> Impressions:
    """All rows of several."""
    return Impressions(
        **{
            each.name: np.concatenate([getattr(part, each.name) for part in parts])
            for each in fields(Impressions)
        }
    )


def pack(
    impressions: Impressions, mask: Bools, *, lists_multiple: int = 1, tokens_multiple: int = 1
) -> tuple[Requests, Tensor, Tensor]:
    """Rows with ``mask`` [n] as requests: a list's history once, its kept rows as candidates.

    Ten rows of a list share one history, and reading it costs most of a forward pass. Isolation is
    what makes this exact: a row's logits are the same as on its own. Nor do they change with the
    padding in front, so a history is as long as the longest of the batch, and then filled up.

    Parameters
    ----------
    lists_multiple, tokens_multiple
        B and L + C are the next multiples of these.

    Returns
    -------
    requests : Requests of B lists (those with a row, one at least) and C candidates (the most of
        any list)
    labels : float32 [B, C, heads]
    weight : float32 [B, C]
    """
    rows = np.flatnonzero(mask)
    number = np.cumsum(impressions.position == 0)[rows]
    _, start, row = np.unique(number, return_index=True, return_inverse=True)
    column = np.arange(len(rows)) - start[row]
    n_lists = _up(max(len(start), 1), lists_multiple)
    n_candidates = int(column.max(initial=0)) + 1
    history, reaction = (
        whole[rows[start]].astype(np.int64) for whole in (impressions.history, impressions.reaction)
    )
    longest = max(1, int((history > 0).sum(axis=1).max(initial=0)))
    length = _up(longest + n_candidates, tokens_multiple) - n_candidates

    def newest(events: NDArray[np.int64]) -> Tensor:
        out = np.zeros((n_lists, length), dtype=np.int64)
        out[: len(events), length - longest :] = events[:, events.shape[1] - longest :]
        return torch.from_numpy(out)

    def spread(values: NDArray[np.generic]) -> Tensor:
        out = np.zeros((n_lists, n_candidates, *values.shape[1:]), dtype=values.dtype)
        out[row, column] = values
        return torch.from_numpy(out)

    requests = Requests(
        newest(history),
        newest(reaction),
        spread(impressions.item[rows].astype(np.int64)),
        spread(impressions.creator[rows].astype(np.int64)),
        spread(age_bucket(impressions.age[rows])),
        spread(impressions.position[rows].astype(np.int64)),
    )
    labels = spread(labels_of({name: vars(impressions)[name][rows] for name in LOGITS[:-1]}))
    return requests, labels, spread(np.ones(len(rows), dtype=np.float32))


def _up(number: int, multiple: int) -> int:
    """The next multiple from ``number``."""
    return -(-number // multiple) * multiple
