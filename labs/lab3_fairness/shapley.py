"""Shapley values by hand: enumerated, in closed form, sampled, by regression, and conditional.

Each column is a player, the output is what they earn together. What a coalition earns without the
others is a choice: put the others' cells from the background into the row (interventional), or
look at real rows that resemble this one in the coalition's columns (conditional).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, factorial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.preprocessing import OneHotEncoder

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab3_fairness.attribution import Attribution, Matrix, Predict, Vector, checked_rows

MAX_COLUMNS = 14  # 2^14 coalitions, each evaluated on the whole background
CELLS = 4_000_000  # numbers in one batch for the model: about 32 MB


def coalitions(d: int) -> NDArray[np.bool_]:
    """All subsets of d columns, [2^d, d]: coalition number c holds column j if bit j of c is 1.

    Raises
    ------
    InputError
        For fewer than 1 or more than 14 columns.
    """
    fix = "group columns, or sample permutations"
    require(1 <= d <= MAX_COLUMNS, "d", d, f"must be from 1 to {MAX_COLUMNS} to enumerate", fix)
    return (np.arange(2**d)[:, None] >> np.arange(d)) % 2 == 1


def evaluate(f: Predict, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Outputs of rows of any shape [..., d], as [...], in batches that fit in memory.

    Raises
    ------
    InputError
        For a model that does not return one finite number a row.
    """
    flat = rows.reshape(-1, rows.shape[-1])
    pieces = np.array_split(flat, max(1, -(-flat.size // CELLS)))
    outputs = np.concatenate([_outputs(f, piece) for piece in pieces])
    return outputs.reshape(rows.shape[:-1])


def _outputs(f: Predict, rows: Matrix) -> Vector:
    outputs = np.asarray(f(rows), dtype=np.float64)
    if outputs.shape != (len(rows),):
        raise InputError(
            f"the model returns {outputs.shape} for {len(rows)} rows; it must be [m], one number a "
            "row: take one column of its probabilities"
        )
    if not np.isfinite(outputs).all():
        row = int(np.argmin(np.isfinite(outputs)))
        raise InputError(
            f"the model's output {outputs[row]} for the row {rows[row].tolist()} is not finite; "
            "mend the model, or draw no such rows"
        )
    return outputs


@exercise(
    "3.13",
    points=8,
    title="Exact Shapley values",
    hint="For one row, compute what every coalition earns first: 2^d numbers. Then column j's "
    "credit is a weighted mean of the 2^(d-1) differences between a coalition with j and the "
    "same one without. In how many of the d! orders does j arrive just after that coalition?",
)
def exact_shapley(f: Predict, rows: Matrix, background: Matrix) -> Matrix:
    r"""Interventional Shapley values by full enumeration of the coalitions.

    .. math::
        v(S) = \frac1m \sum_{i=1}^m f(x_S, z^{(i)}_{\bar S}), \qquad
        \phi_j = \sum_{S \not\ni j} \frac{|S|!\,(d-|S|-1)!}{d!}\,[v(S \cup j) - v(S)]

    The mean is over outputs of mixed rows, one for each background row. ``coalitions`` lists the
    subsets (coalition c with column j added is number ``c + 2**j``), ``evaluate`` gives the
    outputs of an array of rows [..., d] without filling the memory, ``checked_rows`` checks.

    Parameters
    ----------
    f
        [m, d] rows to [m] outputs.
    rows : array of shape [n, d]
        Those to explain; d at most 14.
    background : array of shape [m, d]
        What stands in for columns outside the coalition.

    Returns
    -------
    float64 array of shape [n, d]
        Each row sums to its output minus the mean output of the background.

    References
    ----------
    Shapley: A Value for n-Person Games, 1953. Lundberg, Lee: A Unified Approach to Interpreting
    Model Predictions, NeurIPS 2017, equation 4. Janzing et al.: Feature Relevance Quantification in
    Explainable AI, 2020 (why the interventional expectation).
    """
    explained, others = checked_rows(rows, background)
    n, d = explained.shape
    inside = coalitions(d)
    size = inside.sum(axis=1)
    weight = np.array([factorial(s) * factorial(d - s - 1) / factorial(d) for s in range(d)])
    values = np.empty((n, d))
    for number, row in enumerate(explained):
        mixed = np.where(inside[:, None, :], row, others)
        earned = evaluate(f, mixed).mean(axis=1)
        for j in range(d):
            without = np.flatnonzero(~inside[:, j])
            values[number, j] = weight[size[without]] @ (earned[without + 2**j] - earned[without])
    return values


def linear_shapley(weights: Vector, rows: Matrix, background: Matrix) -> Matrix:
    """The closed form for f(x) = w·x + b: φ_j = w_j (x_j - mean of the background's column j).

    Parameters
    ----------
    weights : array of shape [d]
    rows, background : arrays of shape [n, d] and [m, d]

    Returns
    -------
    float64 array of shape [n, d]

    References
    ----------
    Štrumbelj, Kononenko: Explaining prediction models and individual predictions, 2014, eq. 12.
    """
    explained, others = checked_rows(rows, background)
    slopes = np.asarray(weights, dtype=float)
    if slopes.shape != (explained.shape[1],):
        raise InputError(f"weights {slopes.shape} must be [{explained.shape[1]}], one a column")
    return np.asarray(slopes * (explained - others.mean(axis=0)))


def logistic_shapley(model: Any, features: pd.DataFrame, background: pd.DataFrame) -> Attribution:
    """Closed-form attribution of a fitted ``scoring.logistic_regression``, in log-odds.

    The one-hot columns of a category are one player: their credits are added up.

    Parameters
    ----------
    model
        Pipeline of a column transformer and a logistic regression.
    features, background : DataFrames of n and m rows
        As the model was fitted on.
    """
    transformer, regression = model[0], model[-1]
    dense = [np.asarray(_dense(transformer.transform(part))) for part in (features, background)]
    credit = linear_shapley(regression.coef_[0], dense[0], dense[1])
    values = np.zeros((len(features), features.shape[1]))
    for place, name in enumerate(source_columns(transformer)):
        values[:, features.columns.get_loc(name)] += credit[:, place]
    return Attribution(
        columns=tuple(features.columns),
        values=values,
        base=float(model.decision_function(background).mean()),
        outputs=np.asarray(model.decision_function(features)),
        method="linear closed form",
    )


def _dense(matrix: Any) -> Any:
    return matrix.toarray() if hasattr(matrix, "toarray") else matrix


def source_columns(transformer: Any) -> list[str]:
    """The table's column behind each output of a fitted column transformer."""
    sources: list[str] = []
    for _, step, columns in transformer.transformers_:
        if isinstance(step, OneHotEncoder):
            for name, known in zip(columns, step.categories_):
                sources += [str(name)] * len(known)
        else:
            sources += [str(name) for name in columns]
    return sources


@dataclass(frozen=True)
class SampledShapley:
    """Estimates [n, d] from random orders, and how far off each may be.

    ``standard_error`` is of the mean over orders; NaN when there was one. The background's own
    sampling is not in it.
    """

    values: Matrix
    standard_error: Matrix
    n_permutations: int


def permutation_shapley(
    f: Predict, rows: Matrix, background: Matrix, *, n_permutations: int = 10, seed: int = 0
) -> SampledShapley:
    """Shapley values from random orders: columns arrive one by one, each earns what it adds.

    Every order is walked forward and backward; the mean of the two is one draw, whose errors
    partly cancel (and wholly when columns interact in pairs only). Every draw is efficient.

    Parameters
    ----------
    f, rows, background
        As for :func:`exact_shapley`; d is not limited.
    n_permutations
        Draws for each row; each costs 2 d m outputs.
    seed
        Of the orders; each row has its own.

    References
    ----------
    Castro et al.: Polynomial calculation of the Shapley value based on sampling, 2009.
    Mitchell et al.: Sampling Permutations for Shapley Value Estimation, JMLR 2022 (antithetic).
    """
    require(n_permutations >= 1, "n_permutations", n_permutations, "must be >= 1", "try 10")
    explained, others = checked_rows(rows, background)
    n, d = explained.shape
    rng = np.random.default_rng(seed)
    draws = np.empty((n_permutations, n, d))
    for number in range(n_permutations):
        order = rng.permuted(np.tile(np.arange(d), (n, 1)), axis=1)
        forward = _walk(f, explained, others, order)
        draws[number] = (forward + _walk(f, explained, others, order[:, ::-1])) / 2
    error = np.full((n, d), np.nan)
    if n_permutations > 1:
        error = draws.std(axis=0, ddof=1) / np.sqrt(n_permutations)
    return SampledShapley(draws.mean(axis=0), error, n_permutations)


def _walk(f: Predict, rows: Matrix, background: Matrix, order: NDArray[np.intp]) -> Matrix:
    """What each column adds when it arrives in its row's order, [n, d]."""
    n, d = rows.shape
    place = np.argsort(order, axis=1)
    added = np.empty((n, d))
    size = max(1, CELLS // (background.size * (d + 1)))
    for start in range(0, n, size):
        part = slice(start, start + size)
        there = place[part, None, None, :] < np.arange(d + 1)[:, None, None]
        mixed = np.where(there, rows[part, None, None, :], background)
        steps = np.diff(evaluate(f, mixed).mean(axis=2), axis=1)
        np.put_along_axis(added[part], order[part], steps, axis=1)
    return added


def kernel_shapley(earned: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Shapley values of games by Kernel SHAP's regression, here over every coalition.

    Minimise :math:`\sum_S \pi(S) [v(S) - v(\emptyset) - \sum_{j \in S} \phi_j]^2` under
    :math:`\sum_j \phi_j = v(\text{all}) - v(\emptyset)`, with
    :math:`\pi(S) = (d-1) / [\binom{d}{|S|} |S| (d-|S|)]`. The library samples coalitions; with
    all of them the solution *is* the Shapley value.

    Parameters
    ----------
    earned : array of shape [..., 2^d]
        v of each coalition, in the order of :func:`coalitions`; d at least 2.

    Returns
    -------
    float64 array of shape [..., d]

    References
    ----------
    Lundberg, Lee, 2017, theorem 2.
    """
    d = int(np.log2(earned.shape[-1]))
    require(
        d >= 2 and 2**d == earned.shape[-1], "earned", earned.shape, "must end in 2^d >= 4 values"
    )
    proper = coalitions(d)[1:-1].astype(float)
    size = proper.sum(axis=1).astype(int)
    kernel = np.array([(d - 1) / (comb(d, s) * s * (d - s)) for s in size])
    nothing, total = earned[..., :1], earned[..., -1:] - earned[..., :1]
    # The last credit is the total minus the others, which puts the constraint into the design.
    design = proper[:, :-1] - proper[:, -1:]
    target = earned[..., 1:-1] - nothing - total * proper[:, -1]
    solve = np.linalg.solve(design.T @ (kernel[:, None] * design), design.T * kernel)
    free = target @ solve.T
    return np.concatenate([free, total - free.sum(axis=-1, keepdims=True)], axis=-1)


def conditional_shapley(
    f: Predict, rows: Matrix, background: Matrix, *, neighbours: int = 50
) -> Matrix:
    """Conditional Shapley values: a coalition earns the mean output of real rows that resemble it.

    v(S) is the mean of f over the background rows nearest to the row in the columns of S (in
    standard deviations; rows as near as the last one are all taken). The model only ever sees
    real rows, so it cannot tell that it is being explained. The price: a column that the model
    never reads gets credit if it is correlated with one that it does.

    Parameters
    ----------
    f, rows, background
        As for :func:`exact_shapley`; 2 to 14 columns.
    neighbours
        At least this many rows are averaged.

    References
    ----------
    Aas, Jullum, Løland: Explaining individual predictions when features are dependent, 2021.
    Mase, Owen, Seiler: Explaining black box decisions by Shapley cohort refinement, 2019.
    """
    explained, others = checked_rows(rows, background)
    require(
        1 <= neighbours <= len(others), "neighbours", neighbours, f"must be 1 to {len(others)} rows"
    )
    spread = others.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    inside = coalitions(explained.shape[1]).astype(float)
    output, own = evaluate(f, others), evaluate(f, explained)
    earned = np.empty((len(explained), len(inside)))
    for number, row in enumerate(explained):
        distance = inside @ (((others - row) / scale) ** 2).T
        last = np.partition(distance, neighbours - 1, axis=1)[:, neighbours - 1 : neighbours]
        near = distance <= last + 1e-9
        earned[number] = near @ output / near.sum(axis=1)
    earned[:, -1] = own
    return kernel_shapley(earned)
