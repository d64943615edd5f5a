"""Size or latency against accuracy: which models are beaten on both, and by which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises import exercise
from common.results import Metric
from labs.lab5_distillation.retention import Interval

Training = Literal["teacher", "distilled", "fine-tuned"]
Cost = Literal["size_mb", "latency_ms", "params"]


@dataclass(frozen=True)
class Candidate:
    """A model that could be served, as measured. What was not measured is None.

    Attributes
    ----------
    name
        Of the architecture: a distilled and a fine-tuned student of one name are a pair.
    training
        ``"teacher"``, ``"distilled"`` or ``"fine-tuned"``.
    precision
        Such as ``"fp32"`` or ``"int8"``.
    size_mb
        On disk, MB of 10^6 bytes.
    latency_ms
        Median of one text on one thread.
    throughput_ratio
        Texts a second over the fp32 teacher's, in the same runtime.
    seeds, texts
        Behind ``accuracy_ci95`` and ``retention_ci95``.
    """

    name: str
    training: Training
    precision: str
    accuracy: float
    accuracy_ci95: Interval
    size_mb: float
    params: int
    retention: float | None = None
    retention_ci95: Interval | None = None
    agreement: float | None = None
    latency_ms: float | None = None
    texts_per_s: float | None = None
    throughput_ratio: float | None = None
    throughput_ratio_ci95: Interval | None = None
    seeds: int = 1
    texts: int | None = None
    how: str = ""

    @property
    def label(self) -> str:
        """Name, training and precision, such as ``2 layers, distilled, int8``."""
        parts = (self.name, "" if self.training == self.name else self.training, self.precision)
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Dominated:
    """A candidate, one that costs no more and is no less accurate, and whether beyond doubt.

    ``clear``: the intervals of the two accuracies do not overlap.
    """

    candidate: Candidate
    by: Candidate
    clear: bool


@dataclass(frozen=True)
class Frontier:
    """The candidates that none dominates, by rising cost, and the others."""

    cost: Cost
    on: tuple[Candidate, ...]
    dominated: tuple[Dominated, ...]


@exercise(
    "5.21",
    points=6,
    title="The Pareto frontier",
    hint="By rising cost, and at equal cost by falling accuracy, a point is on the frontier when "
    "it is more accurate than all before it.",
)
def dominated_by(cost: ArrayLike, accuracy: ArrayLike) -> NDArray[np.int64]:
    """For each model the one that dominates it, or -1 where it is on the frontier.

    j dominates i if it costs no more and is no less accurate, and one of the two strictly. Of
    models that are equal in both, the first stays and dominates the others. Named is the most
    accurate of those that dominate i, of these the cheapest, and of these the first: a model that
    is itself on the frontier.

    Parameters
    ----------
    cost : float [N]
        Less is better: MB, ms, parameters.
    accuracy : float [N]
        More is better.

    Returns
    -------
    int64 [N]
    """
    price, value = np.asarray(cost, dtype=float), np.asarray(accuracy, dtype=float)
    found = np.full(len(price), -1, np.int64)
    best = -1
    for i in np.lexsort((-value, price)):  # stable: equal models keep their order
        if best >= 0 and value[i] <= value[best]:
            found[i] = best
        else:
            best = int(i)
    return found


def pareto(candidates: Sequence[Candidate], cost: Cost = "size_mb") -> Frontier:
    """Which candidates are worth having, and which are beaten, by whom.

    Raises
    ------
    InputError
        No candidates, or one whose cost was not measured.
    """
    require(len(candidates) >= 1, "candidates", len(candidates), "must be at least 1")
    prices = []
    for each in candidates:
        price = getattr(each, cost)
        if price is None:
            raise InputError(f"{each.label} has no {cost}: measure it, or leave it out")
        prices.append(float(price))
    by = dominated_by(prices, [each.accuracy for each in candidates]).tolist()
    order = sorted(range(len(by)), key=lambda i: prices[i])
    beaten = []
    for loser, winner in ((candidates[i], candidates[by[i]]) for i in order if by[i] >= 0):
        clear = winner.accuracy_ci95[0] > loser.accuracy_ci95[1]
        beaten.append(Dominated(loser, winner, clear))
    on = tuple(candidates[i] for i in order if by[i] < 0)
    return Frontier(cost, on, tuple(beaten))


def metrics_of(candidate: Candidate, area: str) -> dict[str, Metric]:
    """A candidate's numbers as metrics ``<area>.accuracy``, ``.retention``, ``.size_mb`` and so on.

    Parameters
    ----------
    area
        ``"teacher"``, ``"student.<name>"`` or ``"baseline.<name>"``.
    """
    c, n = candidate, candidate.texts
    found = {
        "accuracy": Metric(c.accuracy, "ratio", n=n, ci95=c.accuracy_ci95, how=c.how),
        "params": Metric(c.params, "parameters"),
        "size_mb": Metric(c.size_mb, "MB", how="10^6 bytes on disk"),
    }
    if c.retention is not None:
        found["retention"] = Metric(c.retention, "ratio", n=n, ci95=c.retention_ci95, how=c.how)
    if c.agreement is not None:
        found["agreement"] = Metric(c.agreement, "ratio", n=n)
    if c.throughput_ratio is not None:
        found["throughput_ratio"] = Metric(
            c.throughput_ratio,
            "ratio",
            ci95=c.throughput_ratio_ci95,
            how="texts a second over the fp32 teacher's, one thread, same runtime, within turns",
        )
    if c.latency_ms is not None:
        found["latency_ms"] = Metric(c.latency_ms, "ms", how="median of one text, one thread")
    if c.texts_per_s is not None:
        found["texts_per_s"] = Metric(c.texts_per_s, "texts/s", how="median of turns, one thread")
    return {f"{area}.{name}": metric for name, metric in found.items()}
