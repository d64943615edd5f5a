"""Many tests at once: what a p-value is worth when it is the smallest of thousands."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises import exercise

PValues = NDArray[np.float64]


@exercise(
    "3.9",
    points=5,
    title="Benjamini and Hochberg by hand",
    hint="Sort upwards and take p m / rank. A hypothesis is rejected as soon as one with a larger "
    "p-value is, so from the largest p downwards no adjusted value may exceed the one after it. "
    "Then put every value back where its hypothesis stood.",
)
def benjamini_hochberg(p_values: ArrayLike) -> PValues:
    """Adjusted p-values that control the false discovery rate.

    With the p-values sorted upwards, ``p_(1) <= ... <= p_(m)``,

        adjusted_(i) = min over j >= i of  m p_(j) / j.

    Rejecting where the adjusted value is at most q is the step-up rule of the paper: of the
    rejected hypotheses at most a share q is true, in expectation, for tests that are
    independent or positively dependent. ``checked`` validates the argument.

    Parameters
    ----------
    p_values : array of shape [m]
        In any order, 0 to 1.

    Returns
    -------
    float64 array of shape [m]
        Adjusted p-values in the order of the argument.

    Raises
    ------
    InputError
        For no p-value, or one that is NaN or outside 0 to 1.

    References
    ----------
    Benjamini and Hochberg: Controlling the False Discovery Rate, JRSS B 1995, section 3.1.
    """
    p = checked(p_values)
    order = np.argsort(p, kind="stable")
    m = len(p)
    steps = p[order] * m / np.arange(1, m + 1)
    adjusted = np.empty(m)
    adjusted[order] = np.minimum.accumulate(steps[::-1])[::-1]
    return adjusted


def benjamini_yekutieli(p_values: ArrayLike) -> PValues:
    """As :func:`benjamini_hochberg` times ``1 + 1/2 + ... + 1/m``: valid under any dependence.

    Parameters and errors as there; values are cut at 1.

    References
    ----------
    Benjamini and Yekutieli: The Control of the False Discovery Rate in Multiple Testing under
    Dependency, Annals of Statistics 2001, theorem 1.3.
    """
    p = checked(p_values)
    harmonic = float(np.sum(1 / np.arange(1, len(p) + 1)))
    return np.minimum(benjamini_hochberg(p) * harmonic, 1.0)


def bonferroni(p_values: ArrayLike) -> PValues:
    """``min(1, m p)``: rejecting at alpha makes *any* false rejection as rare as alpha.

    Parameters and errors as for :func:`benjamini_hochberg`.
    """
    p = checked(p_values)
    return np.minimum(p * len(p), 1.0)


def holm(p_values: ArrayLike) -> PValues:
    """As sure as :func:`bonferroni`, and never less powerful: each step has one test fewer.

    ``adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j))``. Parameters and errors as for
    :func:`benjamini_hochberg`.

    References
    ----------
    Holm: A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    p = checked(p_values)
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def checked(p_values: ArrayLike) -> PValues:
    """P-values as a float64 array of shape [m]; InputError for none, NaN, or outside 0 to 1."""
    p = np.asarray(p_values, dtype=np.float64)
    require(p.ndim == 1, "p_values' shape", p.shape, "must be [m]", "pass one list of them")
    require(p.size > 0, "number of p-values", p.size, "must be at least 1")
    bad = np.flatnonzero(~((p >= 0) & (p <= 1)))
    if bad.size:
        raise InputError(
            f"p_values[{bad[0]}] = {p[bad[0]]} must be from 0 to 1; leave a test that could not "
            "be made out of the family, and say so"
        )
    return p
