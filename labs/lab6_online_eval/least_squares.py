"""Least squares with standard errors that survive unequal variances and clustered units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LinearFit:
    """Coefficients [k] with their covariance [k, k]; residuals [n]; dof of Student's t."""

    coefficients: Floats
    covariance: Floats
    residuals: Floats
    dof: int

    @property
    def se(self) -> Floats:
        """Standard errors, float [k]."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))


def least_squares(
    design: Floats,
    outcome: Floats,
    *,
    weights: Floats | None = None,
    clusters: ArrayLike | None = None,
    hc3: bool = False,
) -> LinearFit:
    """Weighted least squares with a sandwich covariance.

        V = c (X'WX)^-1 M (X'WX)^-1
        M = sum_i w_i^2 e_i^2 / (1 - h_i) x_i x_i'     c = 1                                  HC2
        M = sum_g (sum_{i in g} w_i e_i x_i)(...)'     c = G/(G-1) (n-1)/(n-k)    clusters:   CR1

    with h_i the leverage of a row. For a column of ones and one of 0 and 1, HC2 is Welch's error.

    Parameters
    ----------
    design
        Float [n, k], the column of ones included.
    outcome
        Float [n].
    weights
        Float [n], >= 0; none: all 1.
    clusters
        [n], any labels: rows with the same label may be correlated in any way. There must be many
        labels (say 40) for the normal law to hold.
    hc3
        Divide by ``(1 - h_i)^2``, close to the jackknife: for fits that hang on few rows.

    Raises
    ------
    InputError
        Shapes, missing values, columns that depend on each other, too few rows or clusters.

    Notes
    -----
    White (1980), Econometrica 48; MacKinnon & White (1985), Journal of Econometrics 29; Liang &
    Zeger (1986), Biometrika 73. They are statsmodels' ``HC2``, ``HC3`` and ``cluster``.
    """
    n, k = _checked(design, outcome)
    root = np.ones(n) if weights is None else np.sqrt(_weights(weights, n))
    x, y = design * root[:, None], outcome * root
    q, r = np.linalg.qr(x)
    diagonal = np.abs(np.diag(r))
    if diagonal.min() <= 1e-10 * max(float(diagonal.max()), 1e-300):
        worst = int(diagonal.argmin())
        raise InputError(
            f"column {worst} of the design depends on the columns before it; leave one of them out"
        )
    coefficients = np.linalg.solve(r, q.T @ y)
    whitened = y - x @ coefficients
    scores = q * whitened[:, None]
    if clusters is None:
        leverage = np.minimum((q * q).sum(axis=1), 1 - 1e-9)
        scores = scores / (np.sqrt(1 - leverage) if not hc3 else 1 - leverage)[:, None]
        factor, dof = 1.0, n - k
    else:
        labels = np.unique(np.asarray(clusters), return_inverse=True)[1].ravel()
        require(len(labels) == n, "clusters", len(labels), f"must be {n}, one a row")
        groups = int(labels.max()) + 1
        require(groups >= 2, "clusters", groups, "must be at least 2", "many more, in truth")
        scores = np.stack([np.bincount(labels, column, groups) for column in scores.T], axis=1)
        factor, dof = groups / (groups - 1) * (n - 1) / (n - k), groups - 1
    half = np.linalg.solve(r, scores.T)
    residuals = outcome - design @ coefficients
    return LinearFit(coefficients, factor * half @ half.T, residuals, dof)


def with_intercept(columns: Floats, *others: Floats) -> Floats:
    """A column of ones, ``others`` [n] each, then ``columns`` [n, k], as one design."""
    return np.column_stack([np.ones(len(columns)), *others, columns])


def _checked(design: Floats, outcome: Floats) -> tuple[int, int]:
    require(design.ndim == 2, "shape of design", design.shape, "must be [n, k]")
    n, k = design.shape
    require(outcome.shape == (n,), "shape of outcome", outcome.shape, f"must be ({n},)")
    require(n > k, "rows", n, f"must be more than the {k} columns")
    bad = int(np.count_nonzero(~np.isfinite(outcome)) + np.count_nonzero(~np.isfinite(design)))
    require(bad == 0, "missing values in the regression", bad, "must be 0")
    return n, k


def _weights(weights: Floats, n: int) -> Floats:
    require(weights.shape == (n,), "shape of weights", weights.shape, f"must be ({n},)")
    good = bool(np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0)
    require(good, "weights", "some", "must be finite, >= 0 and not all 0")
    return weights
