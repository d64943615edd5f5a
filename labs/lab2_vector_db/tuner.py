"""Find the settings that reach a recall target at least latency, and say honestly what they reach.

The best of many measured settings is partly the luckiest. So settings are chosen on one part of the
queries, by the lower bound of recall rather than its mean, and judged on the other part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import require
from common.exercises import exercise
from common.latency import LatencySummary
from labs.lab2_vector_db.evaluation import (
    answer_serially,
    bytes_per_vector,
    recall_at_k,
    searcher,
)
from labs.lab2_vector_db.index_types import check_vectors
from labs.lab2_vector_db.parameter_walk import Settings, knobs, walk_staircase

Percentile = Literal["p50_ms", "p95_ms", "p99_ms"]

K_FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
LEAST_QUERIES = 30  # in each part: below, the normal bound means little
Z95_ONE_SIDED = 1.6448536269514722


@dataclass(frozen=True, eq=False)
class Trial:
    """One setting, measured.

    Attributes
    ----------
    settings
        Keyword arguments of :func:`labs.lab2_vector_db.search.search`.
    recalls : float64 array of shape [q]
        Recall of each query.
    latency_ms
        Of one query.
    bytes_per_vector
        Size of the index.
    """

    settings: Settings
    recalls: NDArray[np.float64] = field(repr=False)
    latency_ms: float
    bytes_per_vector: float


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen trial; ``recall`` and its 95 % lower bound ``recall_low`` on held-out queries."""

    trial: Trial
    recall: float
    recall_low: float


def lower_bound(recalls: NDArray[np.float64]) -> float:
    """One-sided 95 % lower bound of the mean recall, ``mean - 1.645 s / sqrt(q)``.

    Parameters
    ----------
    recalls : float64 array of shape [q], q >= 2
        A recall for each query; s is their sample standard deviation.
    """
    require(recalls.ndim == 1, "recalls.shape", recalls.shape, "must be [q]")
    require(len(recalls) >= 2, "number of recalls", len(recalls), "must be >= 2")
    return float(recalls.mean() - Z95_ONE_SIDED * recalls.std(ddof=1) / np.sqrt(len(recalls)))


@exercise(
    "2.13",
    points=10,
    title="Choose a setting, and judge it honestly",
    hint="Three questions, in order. Which trials are allowed at all (memory; the bound on the "
    "queries that are not held out)? Which of them is fastest? What does that one reach on the "
    "queries that had no say? Nothing is said about the order of the trials.",
)
def choose_setting(
    trials: Sequence[Trial],
    held_out: NDArray[np.bool_],
    *,
    target_recall: float,
    memory_budget: float = float("inf"),
) -> Choice | None:
    """The fastest trial that reaches the target within the memory, judged on other queries.

    A trial is **allowed** when its ``bytes_per_vector`` is at most ``memory_budget`` and the lower
    bound of its mean recall over the queries that are *not* held out is at least the target:

    ``mean - 1.645 s / sqrt(q) >= target_recall``  (:func:`lower_bound`)

    Of the allowed, the one with the least ``latency_ms`` is chosen; of equally fast ones, the one
    with fewer bytes. Its recall is then told from the **held-out** queries alone: among many
    trials, the one that was chosen for what it did on some queries did well there partly by luck
    (winner's curse), and only queries that had no part in the choice show what it is worth.

    Parameters
    ----------
    trials
        In any order. Neither recall nor memory need rise with latency: trials may come from
        several indexes. ``check_trials`` is for what they must have in common.
    held_out : bool array of shape [q]
        The queries to judge by; the others are for choosing.
    target_recall
        From 0 to 1.
    memory_budget
        Bytes a vector.

    Returns
    -------
    Choice or None
        None where no trial is allowed: a fast search that misses the target is no answer.

    Raises
    ------
    InputError
        For arrays that do not fit, or fewer than two queries in a part.

    Examples
    --------
    >>> slow = Trial({"nprobe": 8}, np.ones(4), 2.0, 40.0)
    >>> fast = Trial({"nprobe": 1}, np.array([1.0, 0.0, 1.0, 1.0]), 1.0, 40.0)
    >>> held_out = np.array([False, False, True, True])
    >>> choose_setting([fast, slow], held_out, target_recall=0.9).trial.settings
    {'nprobe': 8}
    """
    check_trials(trials, held_out, target_recall)
    allowed = [
        trial
        for trial in trials
        if trial.bytes_per_vector <= memory_budget
        and lower_bound(trial.recalls[~held_out]) >= target_recall
    ]
    if not allowed:
        return None
    best = min(allowed, key=lambda trial: (trial.latency_ms, trial.bytes_per_vector))
    judged = best.recalls[held_out]
    return Choice(best, float(judged.mean()), lower_bound(judged))


def check_trials(
    trials: Sequence[Trial], held_out: NDArray[np.bool_], target_recall: float
) -> None:
    """Refuse trials that cannot be compared.

    Raises
    ------
    InputError
        For recalls of other queries than ``held_out``, a part with fewer than two queries, or a
        target outside 0 to 1.
    """
    require(0 <= target_recall <= 1, "target_recall", target_recall, "must be from 0 to 1")
    require(held_out.dtype == np.bool_, "held_out.dtype", held_out.dtype, "must be bool")
    for name, size in (("held-out", held_out.sum()), ("other", (~held_out).sum())):
        require(size >= 2, f"number of {name} queries", int(size), "must be >= 2")
    for trial in trials:
        shape = trial.recalls.shape
        require(shape == held_out.shape, "recalls.shape", shape, f"must be {held_out.shape}")


@dataclass(frozen=True, eq=False)
class Tuned:
    """What :func:`tune` found.

    Attributes
    ----------
    target_recall
        What was asked for.
    settings
        The choice; None where nothing reached the target, and ``reason`` says what came nearest.
    recall, recall_low
        Mean and 95 % lower bound on the held-out queries; NaN without a choice.
    latency
        Of the choice on the held-out queries, one at a time on one thread, measured once more
        after the choice; None without one.
    n_held_out
        Queries it was judged by.
    trials
        All that was tried on the tuning queries, in order.
    """

    target_recall: float
    settings: Settings | None
    recall: float
    recall_low: float
    latency: LatencySummary | None
    n_held_out: int
    trials: tuple[Trial, ...] = field(repr=False)
    reason: str

    @property
    def nearest(self) -> Settings:
        """The choice, or what came nearest to the target where nothing reached it."""
        if self.settings is not None:
            return self.settings
        return max(self.trials, key=lambda trial: lower_bound(trial.recalls)).settings

    @property
    def met(self) -> bool:
        """Whether the target is reached on queries that had no part in the choice."""
        return self.settings is not None and self.recall >= self.target_recall


def tune(
    index: faiss.Index,
    queries: NDArray[np.float32],
    true_ids: NDArray[np.int64],
    *,
    target_recall: float,
    latency_limit_ms: float = float("inf"),
    percentile: Percentile = "p50_ms",
    k_factors: Sequence[float] = K_FACTORS,
    resolution: float = 1.05,
    held_out: float = 0.5,
    finalists: int = 4,
    seed: int = 0,
    progress: Callable[[int, str], object] | None = None,
) -> Tuned:
    """The search parameters of one index that reach a recall target at least latency.

    Parameters
    ----------
    index
        Trained and filled: an inverted file (nprobe) or a graph (ef_search), refined (k_factor)
        or not. Its own settings stay as they are.
    queries : float32 array of shape [q, d]
        Not stored in the index; at least 60. A bound 0.01 below the mean takes some 500 in the
        tuning part.
    true_ids : int64 array of shape [q, k]
        As the index numbers them.
    target_recall
        Recall@k that the lower bound on the tuning queries must reach.
    latency_limit_ms
        Slower settings are not tried further. Without a limit, an index that cannot reach the
        target is searched up to all of its lists.
    percentile
        Of latency, that should be least. The p99 of a few hundred queries is mostly noise.
    k_factors
        Values tried, where the index refines.
    resolution
        nprobe is found within this factor.
    held_out
        Share of the queries that judge the choice.
    finalists
        Settings measured once more before the choice: the fastest of one run is partly luck, too.
    seed
        Of the split of the queries.
    progress
        Called with the number of runs so far and the last one in words.

    Returns
    -------
    Tuned

    Raises
    ------
    InputError
        For arrays that do not fit, fewer than 30 queries in a part, or an option out of range.

    Notes
    -----
    A run is all tuning queries, one at a time on one thread, and gives recall and latency at once;
    :func:`labs.lab2_vector_db.parameter_walk.walk_staircase` says which settings are run. If recall
    is not monotone (a code without refinement can lose a neighbour to a false one in a further
    list), the choice still reaches the target, but a smaller nprobe might too.
    """
    queries = check_vectors(queries, dimension=index.d, name="queries")
    require(len(true_ids) == len(queries), "true_ids.shape", true_ids.shape, "must fit queries")
    require(0 < target_recall <= 1, "target_recall", target_recall, "must be in (0, 1]")
    require(resolution > 1, "resolution", resolution, "must be > 1", "try 1.05")
    require(finalists >= 1, "finalists", finalists, "must be >= 1")
    judging = split(len(queries), held_out, seed)
    size = bytes_per_vector(index)
    trials: list[Trial] = []
    runs = itertools.count(1)

    def run(settings: Settings, part: NDArray[np.bool_]) -> Trial:
        recalls, latency = _run(index, settings, queries[part], true_ids[part])
        trial = Trial(dict(settings), recalls, float(getattr(latency, percentile)), size)
        if progress is not None:
            text = f"{_words(settings)}: {recalls.mean():.4f}, {trial.latency_ms:.2f} ms"
            progress(next(runs), text)
        return trial

    def attempt(settings: Settings) -> tuple[bool, float]:
        trials.append(run(settings, ~judging))
        return lower_bound(trials[-1].recalls) >= target_recall, trials[-1].latency_ms

    walk_staircase(
        attempt, knobs(index, true_ids.shape[1]), k_factors, resolution, latency_limit_ms
    )
    reaching = [trial for trial in trials if lower_bound(trial.recalls) >= target_recall]
    reaching = [trial for trial in reaching if trial.latency_ms <= latency_limit_ms]
    reaching.sort(key=lambda trial: trial.latency_ms)
    everything = np.ones(len(queries), dtype=bool)
    again = [run(trial.settings, everything) for trial in reaching[:finalists]]
    choice = choose_setting(again, judging, target_recall=target_recall)
    n_held_out = int(judging.sum())
    if choice is None:
        nearest = max(trials, key=lambda trial: lower_bound(trial.recalls))
        reason = (
            f"no setting within {latency_limit_ms:g} ms has a lower bound of recall >= "
            f"{target_recall:g} on {len(queries) - n_held_out} queries; nearest: "
            f"{_words(nearest.settings)}, {lower_bound(nearest.recalls):.4f}"
        )
        nan = float("nan")
        return Tuned(target_recall, None, nan, nan, None, n_held_out, tuple(trials), reason)
    settings = choice.trial.settings
    _, latency = _run(index, settings, queries[judging], true_ids[judging])
    reason = f"fastest of {len(reaching)} settings that reach the target, of {len(trials)} tried"
    return Tuned(
        target_recall,
        settings,
        choice.recall,
        choice.recall_low,
        latency,
        n_held_out,
        tuple(trials),
        reason,
    )


def split(n: int, held_out: float, seed: int) -> NDArray[np.bool_]:
    """Which of n queries are held out: bool [n], drawn without replacement."""
    require(0 < held_out < 1, "held_out", held_out, "must be in (0, 1)", "try 0.5")
    judging = np.zeros(n, dtype=bool)
    judging[np.random.default_rng(seed).permutation(n)[: round(n * held_out)]] = True
    least = min(int(judging.sum()), int((~judging).sum()))
    limit = f"must be >= {LEAST_QUERIES}, of {n} with held_out = {held_out}"
    require(least >= LEAST_QUERIES, "queries in the smaller part", least, limit, "give more")
    return judging


def _run(
    index: faiss.Index,
    settings: Settings,
    queries: NDArray[np.float32],
    true_ids: NDArray[np.int64],
) -> tuple[NDArray[np.float64], LatencySummary]:
    answer = searcher(index, true_ids.shape[1], **settings)  # type: ignore[arg-type]
    answers, seconds = answer_serially(answer, queries)
    latency = LatencySummary.of(seconds, how="serial, one query at a time, one thread")
    return recall_at_k(np.concatenate(answers), true_ids), latency


def _words(settings: Settings) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items()) or "as it is"
