"""Many metrics, one experiment: what 5 % means when twenty are tested.

Two promises are kept apart. The family-wise error rate (FWER) is the chance of *any* false finding:
what a ship decision needs. The false discovery rate (FDR) is the expected share of findings that
are false: what a search through hundreds of metrics or segments needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from common.errors import require
from common.exercises import exercise

Floats = NDArray[np.float64]


def bonferroni(p: ArrayLike) -> Floats:
    """``min(1, m p)``: FWER whatever the dependence. Float [..., m], in the order given."""
    values = _checked(p)
    return np.minimum(1.0, values * values.shape[-1])


def holm(p: ArrayLike) -> Floats:
    """Bonferroni step by step: the smallest p times m, the next times m - 1, and so on.

        adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)),    i = 1 ... m

    FWER whatever the dependence, and never less powerful than Bonferroni: use it instead.

    Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Stat. 6.
    """
    values = _checked(p)
    factor = np.arange(values.shape[-1], 0, -1)
    order = np.argsort(values, axis=-1, kind="stable")
    scaled = np.take_along_axis(values, order, -1) * factor
    return _returned(np.minimum(1.0, np.maximum.accumulate(scaled, axis=-1)), order)


def hochberg(p: ArrayLike) -> Floats:
    """Holm's factors, taken from the largest p downwards.

        adjusted_(i) = min over j >= i of (m - j + 1) p_(j)

    A little more power than Holm's; FWER for independent and for positively dependent metrics
    only.

    Hochberg (1988), A sharper Bonferroni procedure for multiple tests of significance,
    Biometrika 75.
    """
    values = _checked(p)
    order = np.argsort(values, axis=-1, kind="stable")
    factor = np.arange(values.shape[-1], 0, -1)
    scaled = np.minimum(1.0, np.take_along_axis(values, order, -1) * factor)
    return _returned(np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1], order)


@exercise(
    "6.12",
    points=5,
    title="Adjust p-values for the false discovery rate (Benjamini-Hochberg)",
    hint="If all p up to the i-th were called findings, how many false ones would be expected "
    "among m? A p-value may owe its rejection to a larger one that passes: from which end?",
)
def benjamini_hochberg(p: Floats) -> Floats:
    """Adjusted p-values: those at most q are findings of which at most a share q is false.

        adjusted_(i) = min over j >= i of min(1, m p_(j) / j),    p_(1) <= ... <= p_(m)

    Parameters
    ----------
    p
        Float [m] in any order, or [..., m]: one family a row, each adjusted for itself.

    Returns
    -------
    float
        Of the same shape, in the order given.

    Notes
    -----
    Benjamini & Hochberg (1995), Controlling the False Discovery Rate, JRSS B 57. Holds for
    independent metrics, and for positively dependent ones (Benjamini & Yekutieli 2001).
    """
    # BEGIN SOLUTION
    m = p.shape[-1]
    order = np.argsort(p, axis=-1, kind="stable")
    scaled = np.take_along_axis(p, order, -1) * m / np.arange(1, m + 1)
    smallest = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    adjusted = np.empty_like(smallest)
    np.put_along_axis(adjusted, order, np.minimum(1.0, smallest), -1)
    return adjusted
    # END SOLUTION


def benjamini_yekutieli(p: ArrayLike) -> Floats:
    """Benjamini-Hochberg times ``1 + 1/2 + ... + 1/m``: FDR whatever the dependence.

    Benjamini & Yekutieli (2001), Annals of Statistics 29.
    """
    values = _checked(p)
    factor = float((1 / np.arange(1, values.shape[-1] + 1)).sum())
    return np.asarray(np.minimum(1.0, factor * benjamini_hochberg(values)))


def unadjusted(p: ArrayLike) -> Floats:
    """The p-values as they are: what happens when nobody thinks of it."""
    return _checked(p)


PROCEDURES: dict[str, Callable[[Floats], Floats]] = {
    "unadjusted": unadjusted,
    "bonferroni": bonferroni,
    "holm": holm,
    "hochberg": hochberg,
    "benjamini_hochberg": benjamini_hochberg,
    "benjamini_yekutieli": benjamini_yekutieli,
}


@dataclass(frozen=True)
class FamilyErrors:
    """What one procedure did to ``n`` simulated families of metrics at level 0.05.

    ``fwer`` is the share of families with a false finding, ``fdr`` the mean share of false among
    the findings (0 where there are none), ``power`` the share of real effects found (NaN where
    there are none).
    """

    procedure: str
    n_metrics: int
    n_real: int
    correlation: float
    n: int
    fwer: float
    fdr: float
    power: float


def study_multiple_testing(
    *,
    families: Sequence[tuple[int, int]] = ((1, 0), (5, 0), (20, 0), (20, 5), (100, 20)),
    correlations: Sequence[float] = (0.0, 0.5),
    effect: float = 3.0,
    n: int = 4000,
    seed: int = 0,
) -> tuple[FamilyErrors, ...]:
    """FWER, FDR and power of every procedure on families whose truth is known.

    Parameters
    ----------
    families
        (metrics, of which really changed).
    correlations
        Between any two metrics of a family.
    effect
        Of those that changed, in standard errors.
    n
        Experiments a family.

    Raises
    ------
    InputError
        A correlation outside [0, 1), more real effects than metrics, n < 100.
    """
    require(n >= 100, "n", n, "must be at least 100")
    rng = np.random.default_rng(seed)
    found = []
    for correlation in correlations:
        require(0 <= correlation < 1, "correlation", correlation, "must be in [0, 1)")
        for m, real in families:
            require(0 <= real <= m, "real effects", real, f"must be from 0 to {m}")
            z = np.sqrt(1 - correlation) * rng.standard_normal((n, m))
            z += np.sqrt(correlation) * rng.standard_normal((n, 1))
            z[:, :real] += effect
            p = 2 * norm.sf(np.abs(z))
            for name, adjust in PROCEDURES.items():
                finding = adjust(p) < 0.05
                false = finding[:, real:].sum(axis=1)
                every = np.maximum(finding.sum(axis=1), 1)
                found.append(
                    FamilyErrors(
                        procedure=name,
                        n_metrics=m,
                        n_real=real,
                        correlation=correlation,
                        n=n,
                        fwer=float((false > 0).mean()),
                        fdr=float((false / every).mean()),
                        power=float(finding[:, :real].mean()) if real else float("nan"),
                    )
                )
    return tuple(found)


def _checked(p: ArrayLike) -> Floats:
    values = np.asarray(p, dtype=float)
    require(values.ndim >= 1 and values.shape[-1] >= 1, "number of p-values", 0, "must be >= 1")
    bad = int(np.count_nonzero(~((values >= 0) & (values <= 1))))
    require(bad == 0, "p-values that are missing or outside [0, 1]", bad, "must be 0")
    return values


def _returned(ordered: Floats, order: NDArray[np.intp]) -> Floats:
    """Sorted values back in the order in which they were given."""
    adjusted = np.empty_like(ordered)
    np.put_along_axis(adjusted, order, ordered, -1)
    return adjusted
