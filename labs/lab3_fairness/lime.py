"""LIME by hand and with captum: a weighted linear model fitted around one row, from random draws.

Three choices make the answer: how neighbours are drawn, how fast their weight falls with distance,
and how many there are. The seed is a fourth, which nobody chose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import Lime
from numpy.typing import NDArray

from common.errors import InputError, require
from labs.lab3_fairness.attribution import Matrix, Predict, Vector, checked_rows
from labs.lab3_fairness.explanation_checks import seed_spread
from labs.lab3_fairness.shapley import evaluate

LEAST_WEIGHT = 1e-9  # of all neighbours together; below it the ridge alone decides


@dataclass(frozen=True)
class Neighbourhood:
    """Perturbations of one row.

    Attributes
    ----------
    design : float64 array of shape [s, d]
        What the linear model sees.
    rows : float64 array of shape [s, d]
        What the explained model sees.
    distance : float64 array of shape [s]
        From the row, in the units of the design.
    """

    design: Matrix
    rows: Matrix
    distance: Vector


Perturb = Callable[[Vector, int, np.random.Generator], Neighbourhood]
"""A row [d], the number of neighbours and a generator to a :class:`Neighbourhood`."""


def masked(reference: Matrix) -> Perturb:
    """Each cell stays with probability 1/2, or is taken from a random row of ``reference`` [m, d].

    The design is 1 where the cell stayed: a coefficient is what keeping the cell adds, in units
    of the output, comparable with a Shapley value. One reference row is captum's baseline.
    """

    def perturb(row: Vector, n_samples: int, rng: np.random.Generator) -> Neighbourhood:
        kept = rng.random((n_samples, len(row))) < 0.5
        other = reference[rng.integers(len(reference), size=n_samples)]
        distance = np.sqrt((~kept).sum(axis=1))
        return Neighbourhood(kept.astype(float), np.where(kept, row, other), distance)

    return perturb


def gaussian(background: Matrix) -> Perturb:
    """Every column normal with the background's mean and standard deviation, independently.

    As the ``lime`` package draws for numbers without discretisation; it also draws fractions of
    a conviction. The design is standardised: a coefficient is a slope for one standard deviation.
    """
    mean, spread = background.mean(axis=0), background.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)

    def perturb(row: Vector, n_samples: int, rng: np.random.Generator) -> Neighbourhood:
        design = rng.standard_normal((n_samples, len(row)))
        distance = np.linalg.norm(design - (row - mean) / scale, axis=1)
        return Neighbourhood(design, mean + scale * design, distance)

    return perturb


def default_width(d: int) -> float:
    """The ``lime`` package's kernel width for d columns, 0.75 √d."""
    return float(0.75 * np.sqrt(d))


def kernel(distance: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """The weight exp(-distance² / (2 width²)) of a neighbour."""
    require(width > 0, "width", width, "must be > 0", "try 0.75 times the root of the columns")
    return np.asarray(np.exp(-(distance**2) / (2 * width**2)))


def weighted_ridge(design: Matrix, outputs: Vector, weights: Vector, alpha: float) -> Vector:
    """Coefficients [d] that minimise Σ w (y - b - x·β)² + α|β|²; the intercept b is free.

    Parameters
    ----------
    design, outputs, weights : arrays of shape [s, d], [s], [s]
    alpha
        Shrinkage, > 0. It pulls all coefficients towards 0, most when the weights are small.
    """
    require(alpha > 0, "alpha", alpha, "must be > 0", "try 1.0")
    total = weights.sum()
    require(total > 0, "sum of weights", float(total), "must be > 0", "widen the kernel")
    x = design - weights @ design / total
    y = outputs - weights @ outputs / total
    gram = (x * weights[:, None]).T @ x + alpha * np.eye(design.shape[1])
    return np.asarray(np.linalg.solve(gram, x.T @ (weights * y)))


def lime(
    f: Predict,
    rows: Matrix,
    perturb: Perturb,
    *,
    n_samples: int = 500,
    kernel_width: float | None = None,
    alpha: float = 1.0,
    seed: int = 0,
) -> Matrix:
    """Coefficients of a ridge regression around each row.

    Parameters
    ----------
    f
        [m, d] rows to [m] outputs.
    rows : array of shape [n, d]
    perturb
        :func:`masked` or :func:`gaussian`.
    n_samples
        Neighbours a row.
    kernel_width
        Of :func:`kernel`; None is :func:`default_width`.
    alpha
        Of :func:`weighted_ridge`.
    seed
        Of the neighbours.

    Returns
    -------
    float64 array of shape [n, d]
        NaN for a row to which no neighbour is near: :func:`gaussian` draws around the mean, and
        somebody with 38 prior convictions is far from it. The ``lime`` package returns numbers
        near 0 there, with a ranking.

    Raises
    ------
    InputError
        When no row has a neighbour, for a setting that cannot work, or a model that does not
        return one finite number a row.

    References
    ----------
    Ribeiro, Singh, Guestrin: "Why Should I Trust You?", KDD 2016, equation 2 and algorithm 1.
    """
    require(n_samples >= 2, "n_samples", n_samples, "must be >= 2", "try 500")
    explained, _ = checked_rows(rows, rows)
    width = default_width(explained.shape[1]) if kernel_width is None else kernel_width
    rng = np.random.default_rng(seed)
    around = [perturb(row, n_samples, rng) for row in explained]
    outputs = evaluate(f, np.stack([each.rows for each in around]))
    found = np.full(explained.shape, np.nan)
    weights = [kernel(each.distance, width) for each in around]
    heaviest = max(float(each.sum()) for each in weights)
    require(heaviest > LEAST_WEIGHT, "kernel_width", width, "gives no neighbour weight", "widen it")
    for number, y in enumerate(outputs):
        if weights[number].sum() > LEAST_WEIGHT:
            found[number] = weighted_ridge(around[number].design, y, weights[number], alpha)
    return found


def captum_lime(
    f: Predict,
    rows: Matrix,
    reference: Vector,
    *,
    n_samples: int = 500,
    kernel_width: float | None = None,
    alpha: float = 1.0,
    seed: int = 0,
) -> Matrix:
    """The same as :func:`lime` with ``masked`` and one reference row [d], by ``captum.attr.Lime``.

    captum's own default is another explainer: a lasso with alpha 0.01 on 25 to 50 neighbours, and
    cosine distance between raw rows, in which the column with the largest numbers decides.

    Returns
    -------
    float64 array of shape [n, d]
        captum fits in float32.
    """
    explained, others = checked_rows(rows, np.atleast_2d(reference))
    width = default_width(explained.shape[1]) if kernel_width is None else kernel_width

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(evaluate(f, inputs.numpy()))

    def similarity(_: Any, __: Any, kept: torch.Tensor, **___: Any) -> torch.Tensor:
        return torch.exp(-(kept == 0).sum().double() / (2 * width**2)).reshape(1)

    explainer = Lime(forward, SkLearnRidge(alpha=alpha), similarity_func=similarity)
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for row in explained:
            coefficients = explainer.attribute(
                torch.from_numpy(row[None]),
                baselines=torch.from_numpy(others),
                n_samples=n_samples,
                perturbations_per_eval=n_samples,
            )
            found.append(coefficients.detach().numpy()[0])
    return np.asarray(found, dtype=np.float64)


def settings_table(
    f: Predict,
    rows: Matrix,
    perturb: Perturb,
    *,
    sizes: Sequence[int] = (100, 500, 2000),
    widths: Sequence[float] = (0.3, 1.84),
    n_seeds: int = 10,
) -> pd.DataFrame:
    """What number of neighbours and kernel width do to LIME's answer and its scatter.

    Returns
    -------
    DataFrame
        One row a setting: n_samples, kernel_width, mean_coefficient (mean absolute coefficient:
        how far the ridge shrinks), spread (mean over cells of the standard deviation between
        seeds), relative_spread (spread / mean_coefficient), top3_agreement (share of pairs of
        seeds with the same three top columns, mean over rows).
    """
    found = []
    for size in sizes:
        for width in widths:
            options = {"n_samples": size, "kernel_width": width}
            seen = seed_spread(partial(_with_seed, f, rows, perturb, options), range(n_seeds))
            level, spread = float(np.abs(seen.mean).mean()), float(seen.std.mean())
            found.append((size, width, level, spread, spread / level, seen.top_agreement(3)))
    columns = ["n_samples", "kernel_width", "mean_coefficient", "spread", "relative_spread"]
    return pd.DataFrame(found, columns=[*columns, "top3_agreement"])


def _with_seed(
    f: Predict, rows: Matrix, perturb: Perturb, options: dict[str, Any], seed: int
) -> Matrix:
    return lime(f, rows, perturb, **options, seed=seed)


def samples_needed(
    explain: Callable[[int, int], Matrix],
    *,
    bound: float,
    start: int = 100,
    limit: int = 12_800,
    n_seeds: int = 10,
) -> int:
    """The first number of neighbours, doubling from ``start``, with a spread within the bound.

    Parameters
    ----------
    explain
        ``explain(n_samples, seed)`` gives [n, d] coefficients.
    bound
        On the largest standard deviation between seeds, over all rows and columns, in units of
        the output. It falls with the root of the neighbours: half the bound is four times as many.
    start, limit
        First and largest number tried.
    n_seeds
        Runs for each number.

    Raises
    ------
    InputError
        When ``limit`` neighbours are not enough; the message says what spread they reach.
    """
    require(bound > 0, "bound", bound, "must be > 0")
    n_samples, reached = start, float("nan")
    while n_samples <= limit:
        seen = seed_spread(partial(explain, n_samples), range(n_seeds))
        reached = float(seen.std.max())
        if reached <= bound:
            return n_samples
        n_samples *= 2
    raise InputError(f"bound = {bound} is not reached with {limit} neighbours, only {reached:.3g}")
