"""Which requests run together, and when: what a batcher decides, without its clock and threads.

Pure functions of what waits. ``batcher.py`` asks them while it serves, ``queueing.py`` in a
simulation, tests one at a time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from common.errors import require
from common.exercises import exercise


class Decision(NamedTuple):
    """What a batcher does now."""

    leave: int = 0
    """Requests that leave as one batch; 0 for none."""
    refuse: int = 0
    """Requests that find no place: the newest ones."""
    wake_at: float = math.inf
    """When to decide again if nothing happens before (s); infinite when something must happen."""


@exercise(
    "4.8",
    points=10,
    title="When may a batch leave?",
    hint="The delay began when the oldest request came, not when a runner became free. A full "
    "batch need not wait. What remains after the batch has left must fit into the queue.",
)
def decide(
    waiting: int,
    oldest: float,
    now: float,
    *,
    free_since: float | None,
    max_batch: int,
    max_delay_s: float,
    max_queue: int,
) -> Decision:
    """What happens now to the requests that wait.

    A batch leaves when a runner is free and either ``max_batch`` requests wait, or the oldest has
    waited ``max_delay_s`` since it was *enqueued*. At most ``max_queue`` requests stay behind.

    Parameters
    ----------
    waiting
        Requests that wait, one that came just now included.
    oldest
        When the oldest of them was enqueued (s).
    now
        The time (s), on the same clock; a delay that ends now has ended.
    free_since
        Since when a runner has been free (s); None while all are busy.
    max_batch, max_queue
        Requests of a batch, and requests that may wait, both >= 1.
    max_delay_s
        How long the oldest request waits for company (s); 0 runs what is there.

    Returns
    -------
    Decision
        ``wake_at`` is finite only if a batch could leave by the passing of time alone.
    """
    if waiting == 0:
        return Decision()
    leave, wake_at = 0, math.inf
    if free_since is not None:
        due = oldest + max_delay_s
        if waiting >= max_batch or now >= due:
            leave = min(waiting, max_batch)
        else:
            wake_at = due
    return Decision(leave, max(0, waiting - leave - max_queue), wake_at)


@exercise(
    "4.9",
    points=10,
    title="A batch of like lengths that starves nobody",
    hint="Sort by length and look at the windows that hold the oldest request. While the longest "
    "text stays, each shorter one that you add makes the waste larger.",
)
def choose(lengths: Sequence[int], *, max_batch: int, max_waste: float) -> list[int]:
    """The requests that run next: the oldest, and as many of like length as may come along.

    A batch is padded to its longest text, so n texts of lengths :math:`l_i` cost
    :math:`n \\max_i l_i` cells, of which the share

    .. math:: 1 - \\sum_i l_i / (n \\max_i l_i)

    is padding, its *waste*. Of all windows of the texts in order of length (among equals: in order
    of arrival) that hold the oldest text, have ``max_batch`` texts at most and waste
    ``max_waste`` at most, take the one with the most texts; among those the one with the least
    waste.

    Parameters
    ----------
    lengths
        Length of each text that waits, the oldest first; all >= 1.
    max_batch
        Texts of a batch, >= 1.
    max_waste
        In [0, 1). The oldest text may always run alone: its waste is 0.

    Returns
    -------
    list of int
        Positions in ``lengths``, ascending; 0 is always one of them. Empty if nothing waits.
    """
    if not lengths:
        return []
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    ordered = [lengths[i] for i in order]
    until = [0, *accumulate(ordered)]
    # Among equal lengths the sort keeps the order of arrival, so the oldest is the first of them.
    oldest = bisect_left(ordered, lengths[0])
    best_n, best_waste, best_first = 0, 1.0, oldest
    for last in range(oldest, min(oldest + max_batch, len(ordered))):
        # Growing to the left adds ever shorter texts: the waste rises, so bisect for the bound.
        low, high = max(0, last - max_batch + 1), oldest
        while low < high:
            first = (low + high) // 2
            if waste(until[last + 1] - until[first], last - first + 1, ordered[last]) <= max_waste:
                high = first
            else:
                low = first + 1
        n = last - low + 1
        wasted = waste(until[last + 1] - until[low], n, ordered[last])
        if wasted <= max_waste and (n > best_n or (n == best_n and wasted < best_waste)):
            best_n, best_waste, best_first = n, wasted, low
    return sorted(order[best_first : best_first + best_n])


def waste(tokens: int, n: int, longest: int) -> float:
    """Share of padding in a batch: n rows of ``longest`` cells, ``tokens`` of them real."""
    return 1 - tokens / (n * longest)


def waste_of(lengths: Sequence[int]) -> float:
    """Share of padding when texts of these lengths run together; 0 for none."""
    return waste(sum(lengths), len(lengths), max(lengths)) if lengths else 0.0


def check_settings(max_batch: int, max_delay_s: float, max_queue: int) -> None:
    """Raise :class:`InputError` for settings that no batcher can have."""
    require(max_batch >= 1, "max_batch", max_batch, "must be >= 1")
    require(
        0 <= max_delay_s < math.inf, "max_delay_s", max_delay_s, "must be >= 0 and finite", "0.002"
    )
    require(
        max_queue >= 1, "max_queue", max_queue, "must be >= 1", "a queue of 0 refuses everybody"
    )
