"""What a search gives for what it costs: the frontier of recall, latency and memory.

Any index is fast if it may find less, so speed is compared at equal recall: within buckets, "at
least 0.95". A system that does not reach a bucket has no number there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.latency import LatencySummary
from labs.lab2_vector_db.evaluation import (
    Answer,
    answer_serially,
    bytes_per_vector,
    recall_at_k,
    searcher,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BUCKETS = (0.90, 0.95, 0.99)
GIGABYTE = 1e9
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"),
    *("#56B4E9", "#000000", "#8C6D31", "#7F7F7F", "#B22222"),
)
"""Okabe and Ito's, which colour-blind readers can tell apart, and three more."""
LEAST_MISS = 1e-3
"""Where the figure's recall axis ends: 1 - recall in logarithm has no end of its own."""


@dataclass(frozen=True)
class Point:
    """One setting of one system, measured.

    Attributes
    ----------
    name
        Of the system: settings of one name are one curve.
    settings
        Such as ``{"nprobe": 32, "k_factor": 8}``.
    recall
        Mean recall@k over the queries, 0 to 1.
    latency
        One query at a time on one thread.
    bytes_per_vector
        The whole index over ``n_vectors``.
    qps
        Queries a second, taken the same way for all points that are compared.
    n_vectors
        Vectors in the index.
    """

    name: str
    settings: Mapping[str, float] = field(hash=False)
    recall: float
    latency: LatencySummary
    bytes_per_vector: float
    qps: float
    n_vectors: int

    @property
    def gigabytes(self) -> float:
        """Size of the index in units of 10^9 bytes."""
        return self.bytes_per_vector * self.n_vectors / GIGABYTE

    @property
    def qps_per_gigabyte(self) -> float:
        """Throughput for the memory it takes: how many such indexes fit on a machine counts."""
        return self.qps / self.gigabytes


@dataclass(frozen=True)
class Bucket:
    """The best point of each system with recall of ``at_least``, best first.

    ``missing`` are the systems without such a point, each with the best recall it has.
    """

    at_least: float
    best: tuple[Point, ...]
    missing: Mapping[str, float] = field(hash=False)


Key = Callable[[Point], float]


def p50(point: Point) -> float:
    """Median latency in ms."""
    return point.latency.p50_ms


def memory(point: Point) -> float:
    """Bytes a vector."""
    return point.bytes_per_vector


def qps(point: Point) -> float:
    """Queries a second."""
    return point.qps


def qps_per_gigabyte(point: Point) -> float:
    """Queries a second for each 10^9 bytes of index."""
    return point.qps_per_gigabyte


def pareto(points: Sequence[Point], costs: Sequence[Key] = (p50, memory)) -> list[Point]:
    """The points that no other point beats.

    a beats b when its recall is at least b's, each of its costs at most b's, and one of these is
    strictly so. Equal points do not beat each other.

    Parameters
    ----------
    points
        Of any systems, measured with the same queries.
    costs
        What should be small; ``(p50,)`` leaves memory out.

    Returns
    -------
    list of Point
        By rising recall.
    """
    if not points:
        return []
    # [n, 1 + costs], all of which should be small.
    table = np.array([[-point.recall, *(cost(point) for cost in costs)] for point in points])
    as_good = (table[:, None] <= table[None]).all(axis=2)  # [a, b]: a is as good as b everywhere
    better = (table[:, None] < table[None]).any(axis=2)
    beaten: NDArray[np.bool_] = np.any(as_good & better, axis=0)
    kept = [point for point, lost in zip(points, beaten.tolist()) if not lost]
    return sorted(kept, key=lambda point: point.recall)


def best_in_buckets(
    points: Iterable[Point], buckets: Sequence[float] = BUCKETS, key: Key = qps
) -> list[Bucket]:
    """Each system's best point at each level of recall.

    Parameters
    ----------
    points
        Measured with the same queries on the same vectors.
    buckets
        Least recalls. A point counts in every bucket it reaches: with recall 0.97 it also serves
        who asks for 0.90.
    key
        What should be large, such as :func:`qps` or :func:`qps_per_gigabyte`.

    Returns
    -------
    list of Bucket
        One for each least recall, in order.

    Raises
    ------
    InputError
        For points over different numbers of vectors, whose speed cannot be compared.
    """
    points = list(points)
    sizes = sorted({point.n_vectors for point in points})
    require(
        len(sizes) <= 1, "n_vectors of the points", sizes, "must be one number", "compare apart"
    )
    result = []
    for at_least in buckets:
        best: dict[str, Point] = {}
        reached: dict[str, float] = {}
        for point in points:
            reached[point.name] = max(point.recall, reached.get(point.name, 0.0))
            if point.recall >= at_least:
                best[point.name] = max(best.get(point.name, point), point, key=key)
        missing = {name: recall for name, recall in reached.items() if name not in best}
        ranked = tuple(sorted(best.values(), key=key, reverse=True))
        result.append(Bucket(at_least, ranked, missing))
    return result


def measure(
    name: str,
    settings: Mapping[str, float],
    answer: Answer,
    queries: NDArray[np.float32],
    true_ids: NDArray[np.int64],
    *,
    bytes_per_vector: float,
    n_vectors: int,
    warmup: int = 20,
) -> Point:
    """One point: recall and latency of one serial run on one thread, whatever answers.

    Parameters
    ----------
    name, settings, bytes_per_vector, n_vectors
        See :class:`Point`.
    answer
        Takes [1, d] and returns ids [1, k].
    queries : float32 array of shape [q, d]
    true_ids : int64 array of shape [q, k]
    warmup
        Queries answered before the clock starts.
    """
    answers, seconds = answer_serially(answer, queries, warmup=warmup)
    recall = recall_at_k(np.concatenate(answers), true_ids)
    return Point(
        name=name,
        settings=dict(settings),
        recall=float(recall.mean()),
        latency=LatencySummary.of(seconds, how="serial, one query at a time, one thread"),
        bytes_per_vector=bytes_per_vector,
        qps=float(1 / seconds.mean()),
        n_vectors=n_vectors,
    )


def sweep(
    name: str,
    index: faiss.Index,
    queries: NDArray[np.float32],
    true_ids: NDArray[np.int64],
    settings: Iterable[Mapping[str, float]],
) -> list[Point]:
    """The curve of one faiss index: a point for each setting, such as ``{"nprobe": 32}``."""
    size = bytes_per_vector(index)
    points = []
    for each in settings:
        answer = searcher(index, true_ids.shape[1], **each)  # type: ignore[arg-type]
        point = measure(
            name, each, answer, queries, true_ids, bytes_per_vector=size, n_vectors=index.ntotal
        )
        points.append(point)
    return points


def draw(
    points: Sequence[Point],
    *,
    buckets: Sequence[float] = BUCKETS,
    least_recall: float = 0.5,
    title: str = "",
) -> Figure:
    """Recall against latency, a curve for each system, and beside it what each costs in memory.

    Parameters
    ----------
    points
        The faint dots are settings that another setting of the same system beats.
    buckets
        Drawn as lines.
    least_recall
        Points below are left out, for the sake of those that matter.
    title
        Of the figure, such as what was searched.

    Notes
    -----
    The recall axis is ``-log10(1 - recall)``: 0.9 to 0.99 takes as much room as 0.99 to 0.999,
    because each costs about as much.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    shown = [point for point in points if point.recall >= least_recall]
    require(bool(shown), "points", len(points), f"must hold one of recall >= {least_recall}")
    size = {point.name: point.bytes_per_vector for point in shown}
    names = sorted(size, key=lambda name: size[name])
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    curve, bars = figure.subplots(1, 2, width_ratios=[3, 1.5])
    figure.suptitle(title)
    for name in names:
        own = [point for point in shown if point.name == name]
        front = pareto(own, (p50,))
        for each, line, alpha in ((own, "", 0.25), (front, "-", 1.0)):
            latency = [p50(point) for point in each]
            recall = [_clipped(point.recall) for point in each]
            curve.plot(
                latency, recall, marker="o", ms=4, ls=line, lw=1.8, alpha=alpha, color=colour[name]
            )
    curve.set_xscale("log")
    curve.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    curve.xaxis.set_major_formatter("{x:g}")
    curve.xaxis.set_minor_locator(NullLocator())
    curve.set_yscale(
        "function", functions=(lambda y: -np.log10(np.maximum(1 - y, 1e-9)), lambda y: 1 - 10**-y)
    )
    ticks = [t for t in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995) if t >= least_recall]
    curve.yaxis.set_major_locator(FixedLocator([*ticks, 1 - LEAST_MISS]))
    curve.yaxis.set_minor_locator(NullLocator())
    curve.set_yticklabels([*(f"{tick:g}" for tick in ticks), f"{1 - LEAST_MISS:g}+"])
    curve.set_ylim(least_recall - 0.02, 1 - LEAST_MISS / 1.3)
    for bucket in buckets:
        curve.axhline(bucket, color="0.8", lw=1, ls=":", zorder=0)
    curve.set_xlabel("median latency of one query on one thread (ms)")
    curve.set_ylabel("recall")
    _label(curve, shown, colour)
    places = np.arange(len(names))[::-1]
    sizes = [size[name] for name in names]
    bars.barh(places, sizes, height=0.4, color=[colour[name] for name in names])
    bars.set_yticks([])
    for place, name in zip(places, names):
        text = f" {name}, {size[name]:,.0f}"
        bars.annotate(text, (0, place + 0.2), va="bottom", fontsize=8, annotation_clip=False)
    bars.set_ylim(-0.6, len(names) - 0.1)
    bars.set_xlabel("bytes a vector")
    for axes in (curve, bars):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _clipped(recall: float) -> float:
    return min(recall, 1 - LEAST_MISS)


def _label(axes: Axes, points: Sequence[Point], colour: Mapping[str, str]) -> None:
    """Write each curve's name beside its end, in its colour, none over another."""
    axes.margins(x=0.05)
    ends = []
    for name in colour:
        front = pareto([point for point in points if point.name == name], (p50,))
        ends.append((p50(front[-1]), _clipped(front[-1].recall), name))
    to_fraction = axes.transData + axes.transAxes.inverted()
    ends.sort(key=lambda end: end[1])
    least_gap, below = 0.055, -1.0
    places = []
    for x, y, _ in ends:
        below = max(float(to_fraction.transform((x, y))[1]), below + least_gap)
        places.append(below)
    shift = max(0.0, places[-1] - 1.0)
    for (x, y, name), place in zip(ends, places):
        axes.annotate(
            name,
            (x, y),
            xytext=(1.02, place - shift),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=colour[name],
            arrowprops={"arrowstyle": "-", "color": colour[name], "lw": 0.6, "alpha": 0.6},
            annotation_clip=False,
        )
