"""Candidates from several sources, merged: quotas, no repeats, nothing seen, nothing withdrawn.

Each source is an ordered list: the nearest items of the encoder's query (FAISS), the neighbours of
the newest items of the history, the popular items, the fresh ones. A candidate carries one bit for
each source that offered it, so the feed can say why it is there. numpy only: a request takes a
fraction of a millisecond, and the offline evaluation runs this very code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import require

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

SOURCE_NAMES = ("nearest", "item_to_item", "popular", "fresh", "backfill")
"""Bit ``b`` of a candidate's mask stands for ``SOURCE_NAMES[b]``.

``backfill`` is any visible item, in order of its id, when all the sources together had too few.
"""
NEAREST, ITEM_TO_ITEM, POPULAR, FRESH, BACKFILL = (1 << bit for bit in range(5))


@dataclass(frozen=True)
class Quotas:
    """Candidates that each source may place before the others fill what is left.

    Slots that no quota asks for, or that a source could not fill, go to the sources in their
    order: the nearest first.
    """

    nearest: int = 200
    item_to_item: int = 0
    popular: int = 0
    fresh: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            require(value >= 0, f"quota of {name}", value, "must be >= 0")

    @property
    def slots(self) -> tuple[int, int, int, int]:
        """In the order of the sources."""
        return self.nearest, self.item_to_item, self.popular, self.fresh

    @property
    def total(self) -> int:
        return sum(self.slots)

    def as_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class SourceTables:
    """What the sources know besides the index: written with the bundle as ``sources.npz``.

    Attributes
    ----------
    neighbours : int32 [n_items + 1, m]
        Neighbours of each item, the strongest first; 0 where there are fewer. Row 0 is padding.
    weights : float32 [n_items + 1, m]
        Their weights, > 0; 0 at padding.
    popular, fresh : int32 [p], [f]
        Item ids, best first.
    quotas
        Chosen on validation.
    recent : int
        Newest items of a history whose neighbours are looked up.
    half_life : float
        Items after which an item of the history counts half; inf counts all alike.
    """

    neighbours: NDArray[np.int32]
    weights: NDArray[np.float32]
    popular: NDArray[np.int32]
    fresh: NDArray[np.int32]
    quotas: Quotas = Quotas()
    recent: int = 50
    half_life: float = np.inf

    def __post_init__(self) -> None:
        shape = self.neighbours.shape
        require(len(shape) == 2, "neighbours.shape", shape, "must be [n_items + 1, m]")
        require(
            self.weights.shape == shape, "weights.shape", self.weights.shape,
            f"must be {shape}, that of the neighbours",
        )  # fmt: skip
        require(self.recent >= 1, "recent", self.recent, "must be >= 1")
        require(self.half_life > 0, "half_life", self.half_life, "must be > 0", "try inf")
        for name in ("neighbours", "popular", "fresh"):
            ids = getattr(self, name)
            low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
            require(
                low >= 0 and high <= self.n_items, f"{name}: least and greatest id", (low, high),
                f"must be from 0 to {self.n_items}",
            )  # fmt: skip

    @property
    def n_items(self) -> int:
        return len(self.neighbours) - 1

    def save(self, path: Path) -> None:
        """Write ``sources.npz`` (no pickle)."""
        np.savez_compressed(
            path,
            neighbours=self.neighbours,
            weights=self.weights,
            popular=self.popular,
            fresh=self.fresh,
            quotas=np.array(self.quotas.slots, dtype=np.int64),
            recent=np.int64(self.recent),
            half_life=np.float64(self.half_life),
        )

    @classmethod
    def load(cls, path: Path) -> SourceTables:
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                neighbours=stored["neighbours"],
                weights=stored["weights"],
                popular=stored["popular"],
                fresh=stored["fresh"],
                quotas=Quotas(*stored["quotas"].tolist()),
                recent=int(stored["recent"]),
                half_life=float(stored["half_life"]),
            )


@dataclass(frozen=True)
class Candidates:
    """Items for the ranker, in the order in which the sources placed them.

    Attributes
    ----------
    ids : int64 [C]
    source : uint8 [C]
        Bit mask of the sources that offered the item; never 0.
    names : the name of each bit
    """

    ids: Ints
    source: NDArray[np.uint8]
    names: tuple[str, ...] = SOURCE_NAMES

    def sources_of(self, row: int) -> tuple[str, ...]:
        """Names of the sources that offered candidate ``row``."""
        mask = int(self.source[row])
        return tuple(name for bit, name in enumerate(self.names) if mask >> bit & 1)


def mask_of(ids: Ints, n_items: int) -> Mask:
    """[n_items + 1]: True at the ids; ids outside 1..n_items, which this bundle lacks, are left."""
    mask = np.zeros(n_items + 1, dtype=bool)
    mask[ids[(ids > 0) & (ids <= n_items)]] = True
    return mask


def item_to_item(history: Ints, tables: SourceTables) -> Ints:
    """Items by the summed weight of the edges from the newest of the history, best first.

    ``score(j) = sum_i 2^(-age_i / half_life) w(i, j)``, with age 0 for the newest. Only items with
    a positive score; ties in order of the id.
    """
    recent = history[-tables.recent :]
    near = tables.neighbours[recent]
    weights: NDArray[np.floating] = tables.weights[recent]
    if np.isfinite(tables.half_life):
        age = np.arange(len(recent) - 1, -1, -1)
        weights = weights * np.exp2(-age / tables.half_life)[:, None]
    scores = np.bincount(near.ravel(), weights.ravel(), minlength=tables.n_items + 1)
    scores[0] = 0  # padding
    found = np.flatnonzero(scores > 0)
    return found[np.argsort(-scores[found], kind="stable")]


def offers(
    nearest_ids: Ints, history: Ints, tables: SourceTables, *, limit: int, allowed: Mask
) -> list[Ints]:
    """At most ``limit`` allowed items of each source, best first, in the order of the names.

    Without a history there is no query and no item to start from: the first two are empty.
    """
    known = history[(history > 0) & (history <= tables.n_items)]
    none = np.zeros(0, dtype=np.int64)
    lists: list[NDArray[np.integer]] = [
        nearest_ids[(nearest_ids > 0) & (nearest_ids <= tables.n_items)] if len(known) else none,
        item_to_item(known, tables) if len(known) else none,
        tables.popular,
        tables.fresh,
    ]
    return [ids[allowed[ids]][:limit].astype(np.int64) for ids in lists]


def merge(offered: Sequence[Ints], quotas: Quotas, *, limit: int, allowed: Mask) -> Candidates:
    """One list of the offers: each source's quota, then what is left of each in turn.

    The list is the first ``limit`` different items of ``n[:q_n] i[:q_i] p[:q_p] f[:q_f] n[q_n:]
    i[q_i:] p[q_p:] f[q_f:]`` and, if that is not enough, of all allowed items.

    Parameters
    ----------
    offered
        From :func:`offers`: for each of the four sources its ids, all allowed.
    """
    slots = quotas.slots
    parts = [ids[:slot] for ids, slot in zip(offered, slots, strict=True)]
    parts += [ids[slot:] for ids, slot in zip(offered, slots, strict=True)]
    ids = _first_of_each(np.concatenate(parts), len(allowed))[:limit]
    if len(ids) < limit:
        rest = np.flatnonzero(allowed)
        ids = _first_of_each(np.concatenate([ids, rest]), len(allowed))[:limit]
    source = np.zeros(len(allowed), dtype=np.uint8)
    for bit, part in enumerate(offered):
        source[part] |= 1 << bit
    mask = source[ids]
    mask[mask == 0] = BACKFILL
    return Candidates(ids, mask)


def gather(
    nearest_ids: Ints,
    history: Ints,
    tables: SourceTables,
    *,
    limit: int,
    quotas: Quotas,
    seen: Mask,
    visible: Mask,
) -> Candidates:
    """The candidates of one request.

    Parameters
    ----------
    nearest_ids : int64 [k]
        From the index, nearest first; -1 where it found fewer. Ignored without a history, whose
        query vector would mean nothing. Ask for ``limit`` plus the items seen, so that enough
        are left.
    history : int64 [h]
        Oldest first, unpadded or padded with 0; ids that the tables lack are skipped.
    limit
        Candidates wanted.
    quotas
        Slots of each source; together at most ``limit``.
    seen, visible : bool [n_items + 1]
        What the user has seen, and may see. Item 0 is never a candidate.

    Returns
    -------
    Candidates
        ``min(limit, allowed items)`` different ones; the same for the same arguments.

    Raises
    ------
    InputError
        For a limit below 1, quotas above it, or masks of another catalogue.
    """
    require(limit >= 1, "limit", limit, "must be >= 1")
    require(
        quotas.total <= limit, "sum of the quotas", quotas.total, f"must be at most {limit}",
        "lower a quota or raise the limit",
    )  # fmt: skip
    shape = (tables.n_items + 1,)
    for name, mask in (("seen", seen), ("visible", visible)):
        require(mask.shape == shape, f"{name}.shape", mask.shape, f"must be {shape}")
    allowed = visible & ~seen
    allowed[0] = False
    offered = offers(nearest_ids, history, tables, limit=limit, allowed=allowed)
    return merge(offered, quotas, limit=limit, allowed=allowed)


def _first_of_each(ids: Ints, size: int) -> Ints:
    """Without repeats, in order of first appearance; ids below ``size``."""
    place = np.empty(size, dtype=np.int64)
    order = np.arange(len(ids))
    place[ids[::-1]] = order[::-1]  # the last one written is the first one there
    return ids[place[ids] == order]
