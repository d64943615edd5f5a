"""What a causal analysis takes and gives: a checked table of units, an effect with its error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf, isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from common.errors import require

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Z = float(ndtri(0.975))


class Estimand(StrEnum):
    """Whose mean effect is meant."""

    ATE = "ATE"
    """Of everybody in the table."""
    ATT = "ATT"
    """Of those who were treated."""
    ATO = "ATO"
    """Of those who could have gone either way: weights e (1 - e)."""
    LATE = "LATE"
    """Of those whom the encouragement (or the cutoff) moved."""


@dataclass(frozen=True)
class Estimate:
    """An effect: ``effect`` +- ``se``, 95 % interval, two-sided p, and whose effect it is."""

    effect: float
    se: float
    ci95: tuple[float, float]
    p: float
    estimand: Estimand
    n_treated: int
    n_control: int

    @classmethod
    def of(
        cls,
        effect: float,
        se: float,
        *,
        estimand: Estimand,
        n_treated: int,
        n_control: int,
        dof: float = inf,
    ) -> Estimate:
        """With the normal law, or Student's t of ``dof`` degrees of freedom.

        Raises
        ------
        InputError
            A standard error that is 0 or not finite: there is nothing to infer from.
        """
        require(
            isfinite(se) and se > 0,
            "standard error",
            se,
            "must be > 0 and finite",
            "an outcome without variation needs no inference",
        )
        exact = isfinite(dof)
        half = se * (float(stdtrit(dof, 0.975)) if exact else Z)
        ratio = -abs(effect) / se
        p = 2 * float(stdtr(dof, ratio) if exact else ndtr(ratio))
        return cls(
            float(effect),
            float(se),
            (float(effect - half), float(effect + half)),
            p,
            estimand,
            int(n_treated),
            int(n_control),
        )

    def covers(self, truth: float) -> bool:
        """Whether the interval holds ``truth``."""
        return self.ci95[0] <= truth <= self.ci95[1]


@dataclass(frozen=True)
class Study:
    """Units of an observational study; checked when it is made.

    Attributes
    ----------
    outcome
        Float [n].
    treated
        Bool [n].
    covariates
        Float [n, k]: what was known *before* the treatment. Nothing measured after it.
    names
        One a covariate.
    """

    outcome: Floats
    treated: Bools
    covariates: Floats
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_units(self.outcome, self.treated)
        x = self.covariates
        n = len(self.outcome)
        require(
            x.ndim == 2 and len(x) == n,
            "shape of covariates",
            x.shape,
            f"must be [{n}, k], one row a unit",
        )
        check_finite("covariates", x)
        names = self.names or tuple(f"x{column}" for column in range(x.shape[1]))
        require(len(names) == x.shape[1], "names", names, f"must be {x.shape[1]}, one a covariate")
        object.__setattr__(self, "names", names)

    @property
    def n(self) -> int:
        return len(self.outcome)

    def where(self, keep: Bools) -> Study:
        """The units that ``keep`` (bool [n], or int positions) selects."""
        return replace(
            self,
            outcome=self.outcome[keep],
            treated=self.treated[keep],
            covariates=self.covariates[keep],
        )


def study(
    outcome: ArrayLike, treated: ArrayLike, covariates: ArrayLike, names: tuple[str, ...] = ()
) -> Study:
    """A `Study` from anything that numpy can read; ``treated`` is 0 and 1, or bool."""
    return Study(
        np.asarray(outcome, dtype=float),
        as_binary("treated", treated),
        np.asarray(covariates, dtype=float),
        names,
    )


def as_binary(name: str, values: ArrayLike) -> Bools:
    """0/1 or bool [n] as bool; `InputError` for anything else, missing values included."""
    array = np.asarray(values)
    if array.dtype == bool:
        return array
    require(
        bool(((array == 0) | (array == 1)).all()),
        f"values of {name}",
        np.unique(array)[:5].tolist(),
        "must be 0 and 1",
        "a unit without a value has to be left out, knowingly",
    )
    return array.astype(bool)


def check_finite(name: str, values: Floats) -> None:
    """`InputError` when a value is NaN or infinite; says how many."""
    bad = int(np.count_nonzero(~np.isfinite(values)))
    require(bad == 0, f"missing values in {name}", bad, "must be 0", "impute or leave the unit out")


def check_units(outcome: Floats, treated: Bools, *, least: int = 2) -> None:
    """`InputError` unless outcome is finite [n] and both arms have ``least`` units or more."""
    require(outcome.ndim == 1, "shape of outcome", outcome.shape, "must be [n], one value a unit")
    require(
        treated.shape == outcome.shape,
        "shape of treated",
        treated.shape,
        f"must be {outcome.shape}, one value a unit",
    )
    check_finite("outcome", outcome)
    ones = int(np.count_nonzero(treated))
    for name, count in (("treated units", ones), ("control units", len(treated) - ones)):
        require(count >= least, name, count, f"must be at least {least}")


def difference_in_means(outcome: Floats, treated: Bools) -> Estimate:
    """Mean of the treated minus mean of the others, Welch's standard error.

    The right answer in a randomised experiment, and in no other study without an argument. The
    law is normal here; `significance.compare` uses Student's t.
    """
    check_units(outcome, treated)
    with_, without = outcome[treated], outcome[~treated]
    se = np.sqrt(with_.var(ddof=1) / len(with_) + without.var(ddof=1) / len(without))
    return Estimate.of(
        with_.mean() - without.mean(),
        se,
        estimand=Estimand.ATT,
        n_treated=len(with_),
        n_control=len(without),
    )
