"""Rules of batching side by side, in simulation: the same arrivals, the same service times.

Nothing here depends on the machine, so the lesson can quote it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from labs.lab4_model_serving.admission import ServiceTime
from labs.lab4_model_serving.batch_choice import choose, waste_of
from labs.lab4_model_serving.queueing import (
    Simulation,
    decide_from_dequeue,
    simulate,
    simulate_collector,
    stability_limit,
)

EXAMPLE = ServiceTime(fixed_s=0.002, item_s=0.0002)
"""A model for the lesson: a batch costs 2 ms, and each request in it 0.2 ms."""


def poisson(rate: float, n: int, seed: int) -> NDArray[np.float64]:
    """n Poisson arrivals at ``rate`` per second (s)."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, n))


@dataclass(frozen=True)
class PolicyCurve:
    """Latency of one rule over the loads (shares of the stability limit)."""

    name: str
    loads: tuple[float, ...]
    mean_s: tuple[float, ...]
    p99_s: tuple[float, ...]
    mean_batch: tuple[float, ...]


def compare_policies(
    service: ServiceTime = EXAMPLE,
    *,
    max_batch: int = 32,
    max_delay_s: float = 0.005,
    loads: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    requests: int = 6000,
    seed: int = 0,
) -> list[PolicyCurve]:
    """Delay from enqueue (ours), from dequeue (TorchServe), by a clock of its own (Ray Serve)."""
    rules: dict[str, Callable[[NDArray[np.float64], float], Simulation]] = {
        "from enqueue": lambda arrivals, delay: simulate(
            arrivals, service.batch_s, max_batch=max_batch, max_delay_s=delay
        ),
        "from dequeue (TorchServe's pollBatch)": lambda arrivals, delay: simulate(
            arrivals,
            service.batch_s,
            max_batch=max_batch,
            max_delay_s=delay,
            rule=decide_from_dequeue,
        ),
        "by a clock of its own (Ray Serve's @serve.batch)": lambda arrivals, delay: (
            simulate_collector(arrivals, service.batch_s, max_batch=max_batch, max_delay_s=delay)
        ),
        "no delay": lambda arrivals, _: simulate(arrivals, service.batch_s, max_batch=max_batch),
    }
    limit = stability_limit(service, max_batch)
    curves = []
    for name, rule in rules.items():
        found = [rule(poisson(load * limit, requests, seed), max_delay_s) for load in loads]
        curves.append(
            PolicyCurve(
                name,
                tuple(loads),
                tuple(float(each.answered.mean()) for each in found),
                tuple(each.quantile_s(0.99) for each in found),
                tuple(float(each.batches.mean()) for each in found),
            )
        )
    return curves


@dataclass(frozen=True)
class Overload:
    """What one bound does over the loads (offered rate over the stability limit)."""

    name: str
    slo_s: float
    loads: tuple[float, ...]
    throughput: tuple[float, ...]
    goodput: tuple[float, ...]
    p99_s: tuple[float, ...]
    refused: tuple[float, ...]
    """Share of the requests."""


def compare_bounds(
    service: ServiceTime = EXAMPLE,
    *,
    max_batch: int = 32,
    slo_s: float = 0.05,
    loads: Sequence[float] = (0.5, 0.9, 1.1, 1.5, 2.0, 3.0),
    seconds: float = 3.0,
    seed: int = 0,
) -> list[Overload]:
    """No bound, a bound of 1000 requests, and the bound that keeps the promise, under overload."""
    limit = stability_limit(service, max_batch)
    bounds = {
        "no bound": 10**9,
        "1000 requests": 1000,
        f"{1000 * slo_s:.0f} ms": longest_queue(service, max_batch=max_batch, slo_s=slo_s),
    }
    found = []
    for name, max_queue in bounds.items():
        run = partial(simulate, batch_s=service.batch_s, max_batch=max_batch, max_queue=max_queue)
        results = [run(poisson(load * limit, int(load * limit * seconds), seed)) for load in loads]
        found.append(
            Overload(
                name,
                slo_s,
                tuple(loads),
                tuple(each.throughput for each in results),
                tuple(each.goodput(slo_s) for each in results),
                tuple(each.quantile_s(0.99) for each in results),
                tuple(each.refused / len(each.latency) for each in results),
            )
        )
    return found


def longest_queue(service: ServiceTime, *, max_batch: int, slo_s: float) -> int:
    """Requests that may wait so that the last of them is still answered within ``slo_s``.

    The worst case: all runners have just begun, then full batches; :class:`admission.Admission`
    counts with half a batch, and multiplies by what it has learnt.
    """
    full = service.batch_s(max_batch)
    return max(1, (int(slo_s / full + 1e-9) - 1) * max_batch)


@dataclass(frozen=True)
class Padding:
    """Share of padding in batches, by how they are put together."""

    in_order: float
    by_length: float
    to_maximum: float
    mean_batch_by_length: float


def compare_padding(
    tokens: Sequence[int],
    seen: Sequence[int] | None = None,
    *,
    max_batch: int = 32,
    max_waste: float = 0.25,
    waiting: int = 96,
    longest: int = 32,
    batches: int = 200,
    seed: int = 0,
) -> Padding:
    """Waste of batches from a queue that always holds ``waiting`` of these texts.

    Parameters
    ----------
    tokens
        Tokens of each text: what is padded.
    seen
        What the batcher sorts by, such as characters; the tokens themselves by default.
    longest
        Tokens that a model of fixed shape pads every text to.
    """
    rng = np.random.default_rng(seed)
    known = np.asarray(tokens)
    sorted_by = known if seen is None else np.asarray(seen)
    in_order, by_length, sizes = [], [], []
    queue = [int(i) for i in rng.integers(0, len(known), waiting)]
    for _ in range(batches):
        in_order.append(waste_of(known[rng.integers(0, len(known), max_batch)].tolist()))
        lengths = [int(sorted_by[i]) for i in queue]
        chosen = choose(lengths, max_batch=max_batch, max_waste=max_waste)
        by_length.append(waste_of([int(known[queue[i]]) for i in chosen]))
        sizes.append(len(chosen))
        for i in reversed(chosen):
            del queue[i]
        queue += [int(i) for i in rng.integers(0, len(known), waiting - len(queue))]
    return Padding(
        float(np.mean(in_order)),
        float(np.mean(by_length)),
        1 - float(known.mean()) / longest,
        float(np.mean(sizes)),
    )
