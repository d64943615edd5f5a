"""Off-policy from a served log: what another draw for the exploration slots would have earned.

The gateway logs, for each feed that explores, the pool in its order, the values that the chances
follow from, and each item's propensity. So from the log of one variant alone the clicks of a slot
can be estimated for any other draw from the same pool (`read_slots`, then
`off_policy.estimate_slots`), and a variant that really draws so says whether the estimate was right
(`draw_served`). The two meet on one estimand: clicks of an exploration slot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any

import numpy as np

from capstone import exploration
from capstone.api import Slot
from capstone.event_tables import EXPOSURES, REACTIONS, FeedTables
from capstone.experiment_log import Ints
from capstone.off_policy import SlotRows
from capstone.world import World
from common.errors import InputError
from labs.lab6_online_eval.off_policy import Estimate, estimate_of

Z99 = 2.5758


@dataclass(frozen=True)
class ServedSlots:
    """The exploration slots of one variant's feeds, for lab 6's estimators.

    Attributes
    ----------
    rows
        One a slot; ``target`` are the other draw's chances.
    user
        Int [n]: of each row.
    k, slots
        Places and exploration slots of a feed.
    left_out
        Feeds of another shape, fallbacks included.
    misfit
        Largest relative difference between a logged propensity and the one that the logged pool
        gives: above rounding, the log is of another draw than it says.
    """

    rows: SlotRows
    user: Ints
    k: int
    slots: int
    left_out: int
    misfit: float

    def true_value(self, world: World, *, day: int = 0) -> float:
        """The world's mean clicks of a slot of these very feeds under the other draw."""
        click = world.probabilities(self.user - 1, self.rows.pool, day)["click"]
        looked = world.examination(self.k)[1:].mean()
        return float((self.rows.target * click).sum(axis=1).mean() * looked)


def read_slots(log: Path, variant: int, *, sharpness: float) -> ServedSlots:
    """The slots of a variant, with the chances of a draw of this sharpness as the target.

    Parameters
    ----------
    log
        Folder of the gateway's event log; may be written meanwhile.

    Raises
    ------
    InputError
        The variant has no feed with an exploration slot.
    """
    feeds, left_out = _explored(log, variant)
    k, slots = len(feeds[0]["items"]), feeds[0]["slots"].count(Slot.EXPLORATION)
    open_share = slots / (k - 1)
    of_slot = exploration.slot_chance(k, slots)[:, :slots] / open_share
    columns: dict[str, list[Any]] = {name: [] for name in (*SlotRows.__annotations__, "user")}
    misfit = 0.0
    for feed in feeds:
        pool, value = feed["pool"], np.array(feed["pool_values"], dtype=np.float64)
        logger, target = (
            exploration.draw_probabilities(exploration.pool_weights(value, sharp), slots)
            for sharp in (feed["sharpness"], sharpness)
        )
        for place in np.flatnonzero(np.array(feed["slots"]) == Slot.EXPLORATION):
            item = feed["items"][place]
            action = pool.index(item)
            logged = feed["propensities"][place] / open_share
            misfit = max(misfit, abs(float(logger[action] @ of_slot[place]) / logged - 1))
            row = (
                float(item in feed["clicked"]), action, logged, target @ of_slot[place],
                place, item, pool, feed["user_id"],
            )  # fmt: skip
            for column, cell in zip(columns.values(), row, strict=True):
                column.append(cell)
    arrays = {name: np.array(cells) for name, cells in columns.items()}
    user = arrays.pop("user")
    return ServedSlots(SlotRows(**arrays), user, k, slots, left_out, misfit)


def draw_served(log: Path, variant: int) -> Estimate:
    """Clicks of an exploration slot of a variant as they were: what an estimate stands for."""
    feeds, _ = _explored(log, variant)
    rewards = [
        float(item in feed["clicked"])
        for feed in feeds
        for item, slot in zip(feed["items"], feed["slots"], strict=True)
        if slot == Slot.EXPLORATION
    ]
    return estimate_of(np.array(rewards), "served", None, None)


def disagreement(estimate: Estimate, served: Estimate) -> float:
    """Difference of two independent estimates in standard errors."""
    return (estimate.value - served.value) / hypot(estimate.se, served.se)


def agrees(estimate: Estimate, served: Estimate) -> bool:
    """Whether the difference is within its 99 % interval."""
    return abs(disagreement(estimate, served)) <= Z99


def _explored(log: Path, variant: int) -> tuple[list[dict[str, Any]], int]:
    """Feeds of the commonest shape with what was clicked in them, and the number of the others."""
    tables = FeedTables(log)
    clicked: dict[str, set[int]] = {}
    reactions = tables.read(REACTIONS)
    for request, item, reaction in _columns(reactions, "request_id", "item_id", "reaction"):
        if reaction != "hide":
            clicked.setdefault(request, set()).add(item)
    shown = tables.read(EXPOSURES)
    names = (
        "request_id", "user_id", "variant", "in_experiment", "items", "slots", "propensities",
        "pool", "pool_values", "sharpness",
    )  # fmt: skip
    feeds = [
        dict(zip(names, row, strict=True)) | {"clicked": clicked.get(row[0], set())}
        for row in _columns(shown, *names)
        if row[2] == variant and row[3]
    ]

    def shape(feed: dict[str, Any]) -> tuple[int, int, int]:
        slots = feed["slots"].count(Slot.EXPLORATION)
        return len(feed["items"]), slots, len(feed["pool"] or ())

    shapes = Counter(shape(feed) for feed in feeds if shape(feed)[1] and shape(feed)[2])
    if not shapes:
        raise InputError(f"variant {variant} has no feed with an exploration slot in {log}")
    commonest = shapes.most_common(1)[0][0]
    found = [feed for feed in feeds if shape(feed) == commonest]
    return found, len(feeds) - len(found)


def _columns(table: Any, *names: str) -> Sequence[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))
