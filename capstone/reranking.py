"""Re-ranking: from the values of the candidates to the items of a feed.

    creator decay -> diversity -> visibility and backfill -> minimum exposure -> exploration

The order matters. Decay changes values, so diversity must see them decayed. The visibility filter
comes after what is costly and before what makes promises: a minimum kept with an item that is then
taken out is not kept, and a propensity is exact only over items that can be shown. Exploration is
last, because everything before it must be a function of the request alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from capstone import diversity, exploration
from capstone.api import Slot
from capstone.catalogue import Catalogue
from capstone.creator_decay import check_decay, decay
from capstone.minimum_exposure import is_protected, prefix_targets, with_minimum_exposure
from capstone.visibility import backfill
from common.errors import InputError, require

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Diversity = Literal["none", "mmr", "dpp"]
PICK: Mapping[str, Callable[..., diversity.Picks]] = {"mmr": diversity.mmr, "dpp": diversity.dpp}
SLOTS = np.array([Slot.RANKED, Slot.BACKFILL, Slot.EXPOSURE, Slot.EXPLORATION], dtype=object)
RANKED, BACKFILL, EXPOSURE, EXPLORATION = range(4)
HEAD_FACTOR = 3
"""Diversity chooses among the best ``HEAD_FACTOR * k`` candidates."""


@dataclass(frozen=True)
class RerankConfig:
    """How a feed is made of its candidates; the default is a sort by value.

    Attributes
    ----------
    diversity, diversity_weight
        "none", "mmr" or "dpp" (:mod:`capstone.diversity`); the weight is 0 to below 1.
    creator_factor, creator_floor
        Of :func:`capstone.creator_decay.decay`; a factor of 1 means no decay.
    min_exposure
        Share of every prefix that the ``protected_creators`` hold at least; 0 to 1.
    protected_creators
        Numbers of the creators whose exposure is protected.
    exploration_slots
        Random places of a feed, 0 to 3, never the first.
    exploration_pool
        Candidates behind the feed that they are drawn from, 1 to 500.
    exploration_sharpness
        0 draws uniformly; larger prefers the better of the pool; at most 10.

    Raises
    ------
    InputError
        For a value outside its limits, or a minimum exposure of nobody.
    """

    diversity: Diversity = "none"
    diversity_weight: float = 0.0
    creator_factor: float = 1.0
    creator_floor: float = 0.25
    min_exposure: float = 0.0
    protected_creators: tuple[int, ...] = ()
    exploration_slots: int = 0
    exploration_pool: int = 40
    exploration_sharpness: float = 0.0

    def __post_init__(self) -> None:
        kinds = get_args(Diversity)
        require(self.diversity in kinds, "diversity", self.diversity, f"must be one of {kinds}")
        weight, share = self.diversity_weight, self.min_exposure
        require(0 <= weight < 1, "diversity_weight", weight, "must be at least 0 and below 1")
        check_decay(self.creator_factor, self.creator_floor)
        if share != 0:
            # Checks the share; and what it imports is not left to the first request.
            prefix_targets(1, share)
        require(
            share == 0 or len(self.protected_creators) > 0,
            "min_exposure", share, "must be 0 without protected_creators", "name the creators",
        )  # fmt: skip
        require(
            all(isinstance(number, int) and number > 0 for number in self.protected_creators),
            "protected_creators", self.protected_creators, "must be numbers of creators, from 1",
        )  # fmt: skip
        slots, pool, sharp = (
            self.exploration_slots, self.exploration_pool, self.exploration_sharpness
        )  # fmt: skip
        limit = exploration.MAX_SLOTS
        require(0 <= slots <= limit, "exploration_slots", slots, f"must be 0 to {limit}")
        require(1 <= pool <= 500, "exploration_pool", pool, "must be 1 to 500", "try 40")
        require(0 <= sharp <= 10, "exploration_sharpness", sharp, "must be 0 to 10", "try 0")

    def as_json(self) -> dict[str, Any]:
        """As a JSON object; :meth:`from_json` reads it back."""
        return {**asdict(self), "protected_creators": list(self.protected_creators)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RerankConfig:
        """From a JSON object; a key that is unknown is an InputError, one that lacks a default."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(content) - known)
        if unknown:
            raise InputError(
                f"re-ranking: unknown key {unknown[0]!r}; the keys are {sorted(known)}"
            )
        creators = tuple(content.get("protected_creators", ()))
        return cls(**{**content, "protected_creators": creators})


@dataclass(frozen=True)
class Selection:
    """The items of a feed, first to last.

    Attributes
    ----------
    rows : [k]
        Row numbers of the candidates.
    slot : k
        Why each stands where it stands.
    propensity : [k]
        P(this item at this place | request); 1 where nothing was drawn.
    diversity_penalty, creator_penalty : [k]
        What was taken off the value, >= 0, in units of value; 0 for diversity where an item was
        not placed by it (backfill, exploration).
    value : [k]
        The value as it came in.
    pool : [P]
        Row numbers of what the exploration slots were drawn from, best first; empty where nothing
        was drawn. With ``pool_value`` [P], the values that the chances follow from, a log can say
        what another draw would have done.
    """

    rows: NDArray[np.intp]
    slot: tuple[Slot, ...]
    propensity: Floats
    diversity_penalty: Floats
    creator_penalty: Floats
    value: Floats
    pool: NDArray[np.intp]
    pool_value: Floats


def rerank(
    value: NDArray[np.floating],
    ids: Ints,
    catalogue: Catalogue,
    vectors: NDArray[np.floating],
    config: RerankConfig,
    k: int,
    rng: np.random.Generator,
    *,
    allowed: NDArray[np.bool_] | None = None,
) -> Selection:
    """Choose and order the items of a feed; the same for the same state of ``rng``.

    Parameters
    ----------
    value : [C]
        Expected value of showing each candidate; ties keep their order.
    ids : [C]
        Item ids, none twice.
    vectors : [n_items + 1, D]
        Item embeddings, for diversity only; of any length.
    k
        Places, >= 1; fewer come back where fewer may be shown.
    rng
        Used by exploration only.
    allowed : [C], optional
        What may be shown, see :func:`capstone.visibility.visible`; by default what the catalogue
        shows to everybody.

    Raises
    ------
    InputError
        For lengths that differ, a value that is not finite, or k below 1.
    """
    worth = np.asarray(value, dtype=np.float64)
    if worth.ndim != 1 or len(worth) != len(ids):
        raise InputError(f"value {worth.shape} must be [{len(ids)}], one a candidate")
    require(k >= 1, "k", k, "must be >= 1", "try 10")
    require(bool(np.isfinite(worth).all()), "value", "a value", "must be finite")
    may_show = catalogue.visible[ids] if allowed is None else allowed
    k = min(k, int(np.count_nonzero(may_show)))
    if k == 0:
        nothing, none = np.zeros(0), np.zeros(0, np.intp)
        return Selection(none, (), nothing, nothing, nothing, nothing, none, nothing)

    creator = catalogue.creator[ids]
    creator_penalty = np.zeros(len(ids))
    if config.creator_factor < 1:
        creator_penalty = decay(worth, creator, config.creator_factor, config.creator_floor)
    decayed = worth - creator_penalty
    order = np.argsort(-decayed, kind="stable")
    order, diversity_penalty = _diversify(order, decayed, ids, vectors, config, k)

    slots = min(config.exploration_slots, k - 1)
    ranked = k - slots
    order, filled = backfill(order, may_show, ranked)
    slot = np.where(filled, BACKFILL, RANKED)
    if config.min_exposure > 0:
        protected = is_protected(creator[order], config.protected_creators)
        places = with_minimum_exposure(protected, ranked, config.min_exposure)
        slot[places[places > np.arange(ranked)]] = EXPOSURE
        behind = np.ones(len(order), dtype=bool)
        behind[places] = False
        places = np.concatenate([places, np.flatnonzero(behind)])
        order, slot = order[places], slot[places]
    pool = order[ranked : ranked + max(config.exploration_pool, slots)] if slots else order[:0]
    rows, slot, propensity = _explore(order, slot, pool, decayed[pool], config, k, slots, rng)
    return Selection(
        rows,
        tuple(SLOTS[slot].tolist()),
        propensity,
        np.where(slot == EXPLORATION, 0.0, diversity_penalty[rows]),
        creator_penalty[rows],
        worth[rows],
        pool,
        decayed[pool],
    )


def _diversify(
    order: NDArray[np.intp],
    decayed: Floats,
    ids: Ints,
    vectors: NDArray[np.floating],
    config: RerankConfig,
    k: int,
) -> tuple[NDArray[np.intp], Floats]:
    """The order with its first k places chosen for diversity, and the penalty of each candidate."""
    penalty = np.zeros(len(order))
    if config.diversity == "none" or config.diversity_weight == 0:
        return order, penalty
    head = order[: HEAD_FACTOR * k]
    # Weights mean the same in every request only if the best candidate has relevance 1.
    scale = float(np.abs(decayed[head]).max()) or 1.0
    picks = PICK[config.diversity](
        decayed[head] / scale, vectors[ids[head]], k, config.diversity_weight
    )
    chosen = head[picks.rows]
    penalty[chosen] = picks.penalty * scale
    left = np.ones(len(order), dtype=bool)
    left[chosen] = False
    return np.concatenate([chosen, order[left[order]]]), penalty


def _explore(
    order: NDArray[np.intp],
    slot: Ints,
    pool: NDArray[np.intp],
    pool_value: Floats,
    config: RerankConfig,
    k: int,
    slots: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.intp], Ints, Floats]:
    """The k places with ``slots`` of them drawn from the pool, which stands behind the others."""
    if slots == 0:
        return order[:k], slot[:k], np.ones(k)
    ranked = k - slots
    weights = exploration.pool_weights(pool_value, config.exploration_sharpness)
    shown = exploration.draw(weights, k, slots, rng)
    kept = np.ones(k, dtype=bool)
    kept[shown.position] = False
    rows, why = np.empty(k, dtype=np.intp), np.full(k, EXPLORATION)
    rows[kept], why[kept] = order[:ranked], slot[:ranked]
    rows[shown.position] = pool[shown.drawn]
    return rows, why, exploration.propensities(shown, weights, k)
