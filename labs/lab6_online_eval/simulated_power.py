"""Power by running the experiment many times on real values, to check the formula against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from common.errors import require
from common.statistics import proportion_ci
from labs.lab6_online_eval.estimates import finite
from labs.lab6_online_eval.power import Baseline, TwoArms, power_t, units_needed

Floats = NDArray[np.float64]
MOST_VALUES = 4_000_000


@dataclass(frozen=True)
class SimulatedPower:
    """``power`` of ``n_experiments`` simulated experiments, with its Wilson 95 % interval."""

    power: float
    ci95: tuple[float, float]
    n_experiments: int


def simulated_power(
    control: ArrayLike,
    treatment: ArrayLike,
    n_control: int,
    n_treatment: int,
    *,
    control_covariate: ArrayLike | None = None,
    treatment_covariate: ArrayLike | None = None,
    alpha: float = 0.05,
    n_experiments: int = 2000,
    seed: int = 0,
) -> SimulatedPower:
    """Power by running the experiment: units drawn from real values, Welch's test, counted.

    Needs no formula, so it sees what the formula assumes away: tails, zeros, a mean of few users.

    Parameters
    ----------
    control, treatment
        What units do without and with the treatment, float [m] each: the metric's history, and the
        same values with the effect in them. Units are drawn with replacement.
    n_control, n_treatment
        Sizes of the arms of each experiment.
    control_covariate, treatment_covariate
        The covariate of the same units, float [m]; both or none. Then each experiment is adjusted
        by CUPED with its own theta.
    """
    values = finite("control", control), finite("treatment", treatment)
    require(min(n_control, n_treatment) >= 2, "units", (n_control, n_treatment), "must be >= 2")
    require(n_experiments >= 100, "n_experiments", n_experiments, "must be at least 100")
    both = control_covariate is None, treatment_covariate is None
    require(both[0] == both[1], "covariates", both, "must be given for both arms or for none")
    covariates = None
    if control_covariate is not None and treatment_covariate is not None:
        covariates = (
            finite("control_covariate", control_covariate),
            finite("treatment_covariate", treatment_covariate),
        )
        for name, x, y in zip(("control", "treatment"), covariates, values, strict=True):
            require(len(x) == len(y), f"length of {name}_covariate", len(x), f"must be {len(y)}")
    rng = np.random.default_rng(seed)
    batch = max(1, MOST_VALUES // (n_control + n_treatment))
    found, sizes = 0, (n_control, n_treatment)
    for start in range(0, n_experiments, batch):
        rows = min(batch, n_experiments - start)
        drawn = [rng.integers(0, len(v), (rows, n)) for v, n in zip(values, sizes, strict=True)]
        metric = [v[which] for v, which in zip(values, drawn, strict=True)]
        if covariates is not None:
            metric = _adjust(metric, [x[i] for x, i in zip(covariates, drawn, strict=True)])
        found += _found(metric[0], metric[1], alpha)
    return SimulatedPower(found / n_experiments, proportion_ci(found, n_experiments), n_experiments)


def _adjust(metric: list[Floats], covariate: list[Floats]) -> list[Floats]:
    """CUPED of many experiments at once: float [experiments, units] an arm."""
    x, y = np.concatenate(covariate, axis=1), np.concatenate(metric, axis=1)
    centred = x - x.mean(axis=1, keepdims=True)
    squares = (centred**2).sum(axis=1, keepdims=True)
    theta = (centred * y).sum(axis=1, keepdims=True) / np.maximum(squares, 1e-300)
    adjusted = y - theta * centred
    return [adjusted[:, : metric[0].shape[1]], adjusted[:, metric[0].shape[1] :]]


def _found(control: Floats, treatment: Floats, alpha: float) -> int:
    """How many experiments Welch's test finds significant: float [experiments, units] an arm."""
    parts = [arm.var(axis=1, ddof=1) / arm.shape[1] for arm in (control, treatment)]
    squared = parts[0] + parts[1]
    constant = squared <= 0
    squared[constant] = 1.0
    dof = squared**2 / np.maximum(
        sum(part**2 / (arm.shape[1] - 1) for part, arm in zip(parts, (control, treatment))), 1e-300
    )
    ratio = np.abs(treatment.mean(axis=1) - control.mean(axis=1)) / np.sqrt(squared)
    return int(((ratio > student_t.isf(alpha / 2, np.maximum(dof, 1.0))) & ~constant).sum())


@dataclass(frozen=True)
class PilotPromise:
    """A size planned from small pilots: the power promised, and what it turned out to be.

    ``units`` and ``real_power`` float [n_pilots]: the units that each pilot asked for, and the
    power that so many units have by the true variance.
    """

    n_pilot: int
    promised: float
    units: Floats
    real_power: Floats


def pilot_promises(
    values: ArrayLike,
    lift: float,
    *,
    n_pilot: int = 100,
    n_pilots: int = 500,
    power: float = 0.8,
    seed: int = 0,
) -> PilotPromise:
    """What becomes of a sample size when its variance came from ``n_pilot`` units.

    With a heavy tail most pilots miss the tail, so they see too small a variance, ask for too few
    units, and promise a power that is not there. ``values`` float [m] is the whole metric.
    """
    metric = finite("values", values)
    truth = Baseline.of(metric)
    require(n_pilot >= 2, "n_pilot", n_pilot, "must be at least 2")
    rng = np.random.default_rng(seed)
    effect = lift * truth.mean
    units, real = np.empty(n_pilots), np.empty(n_pilots)
    for number in range(n_pilots):
        pilot = metric[rng.integers(0, len(metric), n_pilot)]
        wanted = max(
            4, units_needed(effect, 1.0, max(float(pilot.var(ddof=1)), 1e-12), power=power)
        )
        units[number] = wanted
        real[number] = power_t(effect, TwoArms.of(wanted, truth.variance))
    return PilotPromise(n_pilot, power, units, real)
