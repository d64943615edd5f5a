"""An estimate with its standard error and degrees of freedom: what every design ends in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from common.errors import require

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """An effect, its standard error, and the degrees of freedom of that error (t's law)."""

    effect: float
    se: float
    dof: float

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """The interval at level ``1 - alpha``."""
        require(0 < alpha < 1, "alpha", alpha, "must be between 0 and 1", "try 0.05")
        half = float(student_t.isf(alpha / 2, self.dof)) * self.se
        return self.effect - half, self.effect + half

    @property
    def ci95(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.interval()

    @property
    def p(self) -> float:
        """Two-sided p-value of no effect."""
        return float(2 * student_t.sf(abs(self.effect) / self.se, self.dof))


def summed(effect: float, pieces: Floats, dofs: Floats) -> Estimate:
    """An estimate whose variance is a sum of independent pieces, each estimated with its dof.

        se^2 = sum_i v_i,    dof = (sum_i v_i)^2 / sum_i (v_i^2 / dof_i)

    Welch (1947), Satterthwaite (1946).

    Raises
    ------
    InputError
        The pieces are all 0: a metric that does not vary needs no test.
    """
    total = float(pieces.sum())
    require(total > 0, "variance of the estimate", total, "must be > 0", "a constant needs no test")
    return Estimate(float(effect), total**0.5, total**2 / float((pieces**2 / dofs).sum()))


def as_arrays(estimates: Sequence[Estimate]) -> tuple[Floats, Floats, Floats, Floats]:
    """Effects, both ends of the 95 % intervals and p-values of many estimates: float [n] each."""
    effect, se, dof = np.array([(e.effect, e.se, e.dof) for e in estimates], dtype=float).T
    half = student_t.isf(0.025, dof) * se
    return effect, effect - half, effect + half, 2 * student_t.sf(np.abs(effect) / se, dof)


def finite(name: str, values: object, *, least: int = 2) -> Floats:
    """``values`` as float [n]; `InputError` for another shape, too few, NaN or infinity."""
    array = np.asarray(values, dtype=float)
    require(array.ndim == 1, f"shape of {name}", array.shape, "must be [n], one value a unit")
    require(len(array) >= least, f"values in {name}", len(array), f"must be at least {least}")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    require(bad == 0, f"values in {name} that are not finite", bad, "must be 0")
    return array
