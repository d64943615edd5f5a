"""Walk the search parameters of an index towards the fastest setting that reaches a target.

Recall and latency both rise with nprobe (or ef_search) and with k_factor. So for each k_factor one
value of nprobe is the least that reaches the target, and the fewer candidates are scored again, the
larger it is: the fastest setting lies on that staircase. Bisection walks it in a few dozen runs,
where a grid takes thousands, most of them slow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import faiss

from labs.lab2_vector_db.search import unwrap

Settings = Mapping[str, float]
"""Keyword arguments of :func:`labs.lab2_vector_db.search.search`."""

LARGEST_EF_SEARCH = 4096
SLACK = 1.1  # by which one run's latency may be off


@dataclass(frozen=True)
class Knobs:
    """What an index can be set to: ``name`` from ``low`` to ``high``, and k_factor if it refines.

    ``name`` is ``"nprobe"``, ``"ef_search"``, or None for an index that always looks at all codes.
    """

    name: str | None
    low: int
    high: int
    refines: bool


def knobs(index: faiss.Index, k: int) -> Knobs:
    """The search parameters of an index, found through its wrappers."""
    layers = unwrap(index)
    refines = layers.refine is not None
    if layers.ivf is not None:
        return Knobs("nprobe", 1, layers.ivf.nlist, refines)
    if layers.hnsw is not None:
        high = max(k, min(index.ntotal, LARGEST_EF_SEARCH))
        return Knobs("ef_search", k, high, refines)
    return Knobs(None, 1, 1, refines)


Attempt = Callable[[Settings], tuple[bool, float]]
"""Tries settings: whether they reach the target, and their latency in ms."""


def walk_staircase(
    attempt: Attempt,
    adjustable: Knobs,
    k_factors: Sequence[float],
    resolution: float,
    latency_limit_ms: float,
) -> None:
    """Attempt the settings among which is the fastest that reaches the target.

    k_factors are taken downwards. For each, the least value of nprobe that reaches the target is
    bracketed from below, starting from what the larger k_factor needed, until it is reached or is
    slower than the best so far; then it is bisected on a logarithmic scale.

    Parameters
    ----------
    attempt
        Called with each setting in turn; keeps what it learns.
    adjustable
        See :func:`knobs`.
    k_factors
        Values tried where the index refines.
    resolution
        The least value is found within this factor, > 1.
    latency_limit_ms
        Slower values are not increased further.
    """
    factors = sorted(k_factors, reverse=True) if adjustable.refines else [None]
    if adjustable.name is None:
        for factor in factors:
            attempt({} if factor is None else {"k_factor": factor})
        return
    best = latency_limit_ms
    missed, value = adjustable.low - 1, adjustable.low
    for number, factor in enumerate(factors):
        growth = 2.0 if number == 0 else resolution**3
        if value == missed:
            value, growth = _grown(value, growth, adjustable.high)
        given: dict[str, float] = {} if factor is None else {"k_factor": factor}
        reached, latency = attempt({adjustable.name: value, **given})
        while not reached and latency <= SLACK * best and value < adjustable.high:
            missed = value
            value, growth = _grown(value, growth, adjustable.high)
            reached, latency = attempt({adjustable.name: value, **given})
        if not reached:
            missed = value
            if value == adjustable.high:
                return  # and with fewer candidates to score again it would miss as well
            continue
        best = min(best, latency)
        while value - missed > 1 and value > missed * resolution:
            middle = min(max(round((max(missed, 1) * value) ** 0.5), missed + 1), value - 1)
            reached, latency = attempt({adjustable.name: middle, **given})
            if reached:
                value, best = middle, min(best, latency)
            else:
                missed = middle


def _grown(value: int, growth: float, high: int) -> tuple[int, float]:
    return min(max(value + 1, round(value * growth)), high), min(growth * growth, 2.0)
