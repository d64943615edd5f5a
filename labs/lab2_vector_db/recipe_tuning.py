"""Choose a recipe: refuse by formula what does not fit, build the rest on a sample, tune each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from labs.lab2_vector_db.evaluation import bytes_per_vector
from labs.lab2_vector_db.ground_truth import exact_neighbours
from labs.lab2_vector_db.index_building import build_index
from labs.lab2_vector_db.index_types import Recipe, check_vectors
from labs.lab2_vector_db.tuner import Tuned, lower_bound, tune


@dataclass(frozen=True, eq=False)
class RecipeScore:
    """What became of one candidate.

    Attributes
    ----------
    recipe
        The candidate.
    status
        ``"meets"`` the target, ``"misses"`` it, or was ``"refused"`` before it was built.
    predicted_bytes
        A vector, at the full size; NaN where the recipe does not fit the vectors.
    measured_bytes
        A vector, of the index of the sample, whose fixed parts weigh more; NaN if refused.
    tuned
        None if refused.
    reason
        For people: the choice, what came nearest, or why it was refused.
    """

    recipe: Recipe
    status: Literal["meets", "misses", "refused"]
    predicted_bytes: float
    measured_bytes: float
    tuned: Tuned | None
    reason: str


def tune_recipes(
    candidates: Sequence[Recipe],
    sample: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    target_recall: float,
    memory_budget: float,
    n_vectors: int | None = None,
    k: int = 10,
    seed: int = 0,
    progress: Callable[[int, str], object] | None = None,
    **options: Any,
) -> list[RecipeScore]:
    """Rank recipes by the latency at which they reach a recall target within a memory budget.

    Parameters
    ----------
    candidates
        All of one metric.
    sample : float32 array of shape [n, d]
        What the candidates are built on, one after the other.
    queries : float32 array of shape [q, d]
        Not in the sample; a half chooses the settings, a half judges them.
    target_recall
        Recall@k.
    memory_budget
        Bytes a vector, ids included. What ``recipe.bytes_per_vector`` predicts above it is refused
        before anything is built.
    n_vectors
        Vectors that the index will hold, over which its fixed parts are shared; None means n.
    seed
        Of training and of the split of the queries.
    progress
        Called with the number of candidates done and the last one in words.
    options
        For :func:`labs.lab2_vector_db.tuner.tune`, such as ``latency_limit_ms``.

    Returns
    -------
    list of RecipeScore
        First those that meet the target, fastest first (on held-out queries); then those that
        miss it, nearest first; then the refused, smallest first.

    Raises
    ------
    InputError
        For no candidates, different metrics, or a budget that is not positive.

    Notes
    -----
    A sample ranks recipes and does not set them. With fewer vectors, lists are shorter and
    neighbours farther apart: give candidates the list length (``n / n_lists``) they will have, and
    tune the few best again at full size.
    """
    require(len(candidates) >= 1, "number of candidates", len(candidates), "must be >= 1")
    metrics = sorted({recipe.metric for recipe in candidates})
    require(len(metrics) == 1, "metrics of the candidates", metrics, "must be one", "tune apart")
    require(memory_budget > 0, "memory_budget", memory_budget, "must be > 0")
    sample = check_vectors(sample, name="sample")
    size = len(sample) if n_vectors is None else n_vectors
    true_ids = exact_neighbours(sample, queries, k, metrics[0]).ids
    scores = []
    for number, recipe in enumerate(candidates, 1):
        score = _score(
            recipe, sample, queries, true_ids, target_recall, memory_budget, size, seed, options
        )
        scores.append(score)
        if progress is not None:
            progress(number, f"{recipe.factory}: {score.status}")
    return sorted(scores, key=_rank)


def _score(
    recipe: Recipe,
    sample: NDArray[np.float32],
    queries: NDArray[np.float32],
    true_ids: NDArray[np.int64],
    target_recall: float,
    memory_budget: float,
    n_vectors: int,
    seed: int,
    options: dict[str, Any],
) -> RecipeScore:
    nan = float("nan")
    try:
        predicted = recipe.bytes_per_vector(sample.shape[1], n_vectors=n_vectors)
    except InputError as error:
        return RecipeScore(recipe, "refused", nan, nan, None, f"does not fit: {error}")
    if predicted > memory_budget:
        reason = f"{predicted:.1f} bytes a vector predicted, the budget is {memory_budget:g}"
        return RecipeScore(recipe, "refused", predicted, nan, None, reason)
    try:
        index = build_index(sample, recipe, seed=seed)
    except InputError as error:
        return RecipeScore(recipe, "refused", predicted, nan, None, f"cannot be built: {error}")
    tuned = tune(index, queries, true_ids, target_recall=target_recall, seed=seed, **options)
    status: Literal["meets", "misses"] = "meets" if tuned.met else "misses"
    reason = tuned.reason
    if tuned.settings is not None and not tuned.met:
        reason = f"chosen {dict(tuned.settings)}, but recall {tuned.recall:.4f} on held-out queries"
    return RecipeScore(recipe, status, predicted, bytes_per_vector(index), tuned, reason)


def _rank(score: RecipeScore) -> tuple[int, float]:
    if score.tuned is None:
        return 2, np.nan_to_num(score.predicted_bytes, nan=np.inf)
    if score.status == "meets" and score.tuned.latency is not None:
        return 0, score.tuned.latency.p50_ms
    return 1, -max(lower_bound(trial.recalls) for trial in score.tuned.trials)
