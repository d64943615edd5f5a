"""Which simulated impressions a rank trains on in a step, and how they become one batch.

Everything is a function of (step, rank, world size), so a run that is killed and resumed, on the
same or another number of ranks, reads every impression once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
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
        Lists of one forward pass at most; a step with more accumulates. 0 takes all at once.
    """

    config: ImpressionConfig
    train_shards: int
    lanes: int = 8
    steps_per_shard: int = 8
    share: float = 0.1
    micro_lists: int = 0

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

    def batches(self, step: int, rank: int, world: int, device: torch.device | str) -> list[Batch]:
        """The rank's micro-batches of a step: whole lists, as many on every rank."""
        impressions, mask = self.read(step, rank, world)
        lists = np.append(np.flatnonzero(impressions.position == 0), impressions.n)
        count = self.micro_batches(world)
        usual, found = self.usual_rows() / world / count, []
        for part in np.array_split(np.arange(len(lists) - 1), count):
            # A rank with fewer lanes than another may have a batch of no list.
            rows = slice(int(lists[part[0]]), int(lists[part[-1] + 1])) if len(part) else slice(0)
            requests, labels, weight = pack(take(impressions, rows), mask[rows])
            found.append(Batch(requests.on(device), labels.to(device), weight.to(device), usual))
        return found


@lru_cache(maxsize=128)
def cached_shard(config: ImpressionConfig, number: int) -> Impressions:
    """A shard, kept while its parts are read: at least one for each lane of this rank."""
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


def pack(impressions: Impressions, mask: Bools) -> tuple[Requests, Tensor, Tensor]:
    """Rows with ``mask`` [n] as requests: a list's history once, its kept rows as candidates.

    Ten rows of a list share one history, and reading it costs most of a forward pass. Isolation is
    what makes this exact: a row's logits are the same as on its own.

    Returns
    -------
    requests : Requests of B lists (those with a row) and C candidates (the most of any list)
    labels : float32 [B, C, heads]
    weight : float32 [B, C]
    """
    rows = np.flatnonzero(mask)
    number = np.cumsum(impressions.position == 0)[rows]
    _, start, row = np.unique(number, return_index=True, return_inverse=True)
    column = np.arange(len(rows)) - start[row]
    shape = (len(start), int(column.max(initial=0)) + 1)

    def spread(values: NDArray[np.generic]) -> Tensor:
        out = np.zeros((*shape, *values.shape[1:]), dtype=values.dtype)
        out[row, column] = values
        return torch.from_numpy(out)

    requests = Requests(
        torch.from_numpy(impressions.history[rows[start]].astype(np.int64)),
        torch.from_numpy(impressions.reaction[rows[start]].astype(np.int64)),
        spread(impressions.item[rows].astype(np.int64)),
        spread(impressions.creator[rows].astype(np.int64)),
        spread(age_bucket(impressions.age[rows])),
        spread(impressions.position[rows].astype(np.int64)),
    )
    labels = spread(labels_of({name: vars(impressions)[name][rows] for name in LOGITS[:-1]}))
    return requests, labels, spread(np.ones(len(rows), dtype=np.float32))
