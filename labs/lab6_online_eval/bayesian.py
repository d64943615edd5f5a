"""Bayesian answers beside the tests: how likely is it better, and what is lost if it is not?

The posterior answers the question that people ask. What it is worth depends on the prior: "95 %
probable" holds on average over experiments whose effects are drawn from *that* prior, peeking or
not, and over no other ones. A flat prior says that an effect of 1,000 % is as likely as one of 1 %.
Past experiments say how large effects are (`fit_prior`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import inf, isfinite, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import betainc, betainccinv, betaincinv, betaln, expit, log_expit, logit
from scipy.stats import norm

from common.errors import require

Floats = NDArray[np.float64]

NODES = 400
TAIL, TINY = 1e-15, 1e-280


@dataclass(frozen=True)
class NormalPrior:
    """Effects before the data: normal, ``sd`` > 0; infinite for a flat one."""

    mean: float = 0.0
    sd: float = inf

    def __post_init__(self) -> None:
        require(isfinite(self.mean), "mean", self.mean, "must be finite")
        require(self.sd > 0, "sd", self.sd, "must be > 0", "no spread leaves nothing to learn")


FLAT = NormalPrior()


@dataclass(frozen=True)
class NormalPosterior:
    """An effect given the data: normal."""

    mean: float
    sd: float

    @property
    def p_better(self) -> float:
        """Probability that the effect is above 0."""
        return float(norm.sf(-self.mean / self.sd))

    @property
    def expected_loss(self) -> float:
        """What shipping costs on average: ``E[max(-effect, 0)]``, in units of the effect.

        ``sd phi(m / sd) - m Phi(-m / sd)``; an effect below 0 costs its size, one above nothing.
        """
        z = self.mean / self.sd
        return float(self.sd * norm.pdf(z) - self.mean * norm.sf(z))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The central credible interval."""
        require(0 < level < 1, "level", level, "must be between 0 and 1", "try 0.95")
        half = float(norm.isf((1 - level) / 2)) * self.sd
        return self.mean - half, self.mean + half


def posterior(effect: float, se: float, prior: NormalPrior = FLAT) -> NormalPosterior:
    """What an estimate and a prior say together: each weighs with its precision.

        1 / sd^2 = 1 / s0^2 + 1 / se^2,    mean = sd^2 (m0 / s0^2 + effect / se^2)

    Parameters
    ----------
    effect, se
        Estimate and standard error: of the absolute effect or, as priors are best told and kept,
        of the relative one (`Comparison.relative` and its interval's width / 3.92).

    Raises
    ------
    InputError
        An effect that is not finite, or a standard error that is not > 0.
    """
    require(isfinite(effect), "effect", effect, "must be finite")
    require(0 < se < inf, "se", se, "must be > 0 and finite")
    mean, sd = _update(np.array(effect), np.array(se), prior)
    return NormalPosterior(float(mean), float(sd))


def fit_prior(effects: ArrayLike, se: ArrayLike, *, mean: float | None = None) -> NormalPrior:
    """The prior that past experiments suggest: empirical Bayes by maximum likelihood.

    Estimates are ``N(m0, s0^2 + se_i^2)``; m0 and s0 maximise that likelihood, so that noise is
    not taken for a spread of effects.

    Parameters
    ----------
    effects, se
        Every past experiment of one metric, also those that found nothing: float [n] each. With
        the winners alone the prior learns that everything works.
    mean
        m0 when it is known, such as 0 where the sign of an effect is arbitrary.

    Raises
    ------
    InputError
        Fewer than 5 experiments, values that are not finite, a standard error <= 0, or estimates
        that spread no more than their noise, which leave no spread of effects to see.

    Notes
    -----
    Efron & Morris (1975), JASA 70; Azevedo, Deng, Montiel Olea & Weyl (2019), Empirical Bayes
    Estimation of Treatment Effects with Many A/B Tests. Effects of real programmes have heavier
    tails than the normal; it shrinks large true effects too much.
    """
    x, s = np.asarray(effects, dtype=float), np.asarray(se, dtype=float)
    require(x.ndim == 1 and x.shape == s.shape, "shape of se", s.shape, f"must be {x.shape}")
    require(len(x) >= 5, "past experiments", len(x), "must be at least 5")
    bad = int(np.count_nonzero(~(np.isfinite(x) & np.isfinite(s))))
    require(bad == 0, "effects or errors that are not finite", bad, "must be 0")
    require(float(s.min()) > 0, "smallest se", float(s.min()), "must be > 0")

    def centre(variance: float) -> float:
        weight = 1 / (variance + s**2)
        return mean if mean is not None else float((weight * x).sum() / weight.sum())

    def loss(log_sd: float) -> float:
        variance = float(np.exp(2 * log_sd))
        total = variance + s**2
        return float((np.log(total) + (x - centre(variance)) ** 2 / total).sum())

    least, most = np.log(float(s.min()) * 1e-3), np.log(10 * (np.ptp(x) + float(s.max())))
    found = float(minimize_scalar(loss, bounds=(least, most), method="bounded").x)
    require(
        found > least + 1,
        "spread of the effects",
        0.0,
        "must be > 0",
        "these estimates spread no more than their noise: past effects were too small to be seen",
    )
    sd = float(np.exp(found))
    return NormalPrior(centre(sd**2), sd)


@dataclass(frozen=True)
class BetaComparison:
    """Two proportions after the data.

    Attributes
    ----------
    effect
        Posterior mean of ``p_t - p_c``.
    p_better
        Probability that ``p_t > p_c``.
    expected_loss
        ``E[max(p_c - p_t, 0)]``: what shipping costs on average, in points.
    """

    effect: float
    p_better: float
    expected_loss: float


def beta_binomial(
    control: int,
    n_control: int,
    treatment: int,
    n_treatment: int,
    *,
    prior: tuple[float, float] = (1.0, 1.0),
) -> BetaComparison:
    """Two proportions with a Beta prior on each: the posterior is ``Beta(a + x, b + n - x)``.

    Parameters
    ----------
    control, n_control, treatment, n_treatment
        Successes and units.
    prior
        (a, b) of both arms: as though a successes and b failures had been seen before. (1, 1) is
        uniform.

    Raises
    ------
    InputError
        Counts outside 0 to n, or a prior that is not > 0.

    Notes
    -----
    ``P(p_t > p_c)`` is an integral over the treatment's density, by Gauss and Legendre. The loss
    follows from the same function, since ``x beta(a, b)`` is ``mean * beta(a + 1, b)``.
    """
    require(min(prior) > 0, "prior", prior, "must be > 0", "(1, 1) is uniform")
    for name, count, n in (("control", control, n_control), ("treatment", treatment, n_treatment)):
        require(0 <= count <= n, f"successes in {name}", count, f"must be between 0 and {n}")
    (a_c, b_c), (a_t, b_t) = (
        (prior[0] + x, prior[1] + n - x)
        for x, n in ((control, n_control), (treatment, n_treatment))
    )
    mean_c, mean_t = a_c / (a_c + b_c), a_t / (a_t + b_t)
    lost_c = mean_c * (1 - _above(a_c + 1, b_c, a_t, b_t))
    lost_t = mean_t * (1 - _above(a_c, b_c, a_t + 1, b_t))
    return BetaComparison(mean_t - mean_c, _above(a_c, b_c, a_t, b_t), max(0.0, lost_c - lost_t))


@dataclass(frozen=True)
class Calibration:
    """What "95 % probable" was worth to one way of deciding, over simulated experiments.

    Attributes
    ----------
    prior
        ``flat`` or ``fitted``.
    looks
        How often anybody looked; the first look at which the probability of an improvement passed
        95 % ended the experiment.
    claimed
        The mean probability at the stop, of those that stopped.
    improved
        The share of those whose effect was indeed above 0.
    exaggeration
        Mean estimate at the stop over mean truth, of those that stopped.
    stopped_of_none
        The share of experiments without any effect that stopped and claimed one.
    stopped
        The share of all that stopped.
    """

    prior: str
    looks: int
    claimed: float
    improved: float
    exaggeration: float
    stopped_of_none: float
    stopped: float


@dataclass(frozen=True)
class BayesStudy:
    """`Calibration` by prior and number of looks, and the prior that was fitted."""

    rows: tuple[Calibration, ...]
    true_sd: float
    fitted: NormalPrior
    n: int

    def row(self, prior: str, looks: int) -> Calibration:
        """The one of this prior and number of looks."""
        return next(row for row in self.rows if (row.prior, row.looks) == (prior, looks))


def study_bayes(
    *,
    looks: tuple[int, ...] = (1, 5, 20),
    effect_sd: float = 0.01,
    final_se: float = 0.01,
    n_past: int = 300,
    n: int = 40_000,
    certain: float = 0.95,
    seed: int = 0,
) -> BayesStudy:
    """Experiments whose effects are drawn from a law that only past experiments tell.

    Parameters
    ----------
    looks
        Numbers of equally spaced looks to try.
    effect_sd
        True effects are normal around 0 with this standard deviation.
    final_se
        Standard error at the last look; earlier it is larger by ``sqrt(looks / look)``.
    n_past
        Past experiments from which the prior is fitted.
    n
        Experiments with effects, and as many without.
    certain
        The probability of an improvement at which an experiment stops.
    """
    require(n >= 1000, "n", n, "must be at least 1000")
    require(0.5 < certain < 1, "certain", certain, "must be above 0.5 and below 1", "try 0.95")
    rng = np.random.default_rng(seed)
    past = effect_sd * rng.standard_normal(n_past) + final_se * rng.standard_normal(n_past)
    fitted = fit_prior(past, np.full(n_past, final_se), mean=0.0)
    rows = []
    for count in looks:
        se = final_se * np.sqrt(count / np.arange(1, count + 1))
        effects = effect_sd * rng.standard_normal(n)
        with_effects = effects[:, None] + _paths(rng, n, se)
        without = _paths(rng, n, se)
        for name, prior in (("flat", FLAT), ("fitted", fitted)):
            mean, sd = _update(with_effects, se, prior)
            at, stopped = _first(mean / sd, certain)
            row = np.flatnonzero(stopped)
            here = mean[row, at[row]]
            probability = norm.cdf(here / sd[at[row]])
            none_mean, none_sd = _update(without, se, prior)
            rows.append(
                Calibration(
                    prior=name,
                    looks=count,
                    claimed=float(probability.mean()),
                    improved=float((effects[row] > 0).mean()),
                    exaggeration=float(here.mean() / effects[row].mean()),
                    stopped_of_none=float(_first(none_mean / none_sd, certain)[1].mean()),
                    stopped=float(stopped.mean()),
                )
            )
    return BayesStudy(tuple(rows), effect_sd, fitted, n)


def _update(effect: Floats, se: Floats, prior: NormalPrior) -> tuple[Floats, Floats]:
    """Posterior mean, of the shape of ``effect``, and standard deviation, of that of ``se``."""
    weight = 1 / se**2
    before = 0.0 if prior.sd == inf else 1 / prior.sd**2
    variance = 1 / (before + weight)
    return variance * (before * prior.mean + weight * effect), np.sqrt(variance)


def _paths(rng: np.random.Generator, n: int, se: Floats) -> Floats:
    """Errors of the running estimate at each look, float [n, looks], with the given se [looks]."""
    looks = len(se)
    steps = rng.standard_normal((n, looks)).cumsum(axis=1)
    return np.asarray(steps / np.arange(1, looks + 1) * se[-1] * sqrt(looks))


def _first(z: Floats, certain: float) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The first look at which the probability passes, and whether any does."""
    passed = z > norm.ppf(certain)
    return passed.argmax(axis=1), np.asarray(passed.any(axis=1))


def _above(a_c: float, b_c: float, a_t: float, b_t: float) -> float:
    """``P(Y > X)`` of X ~ Beta(a_c, b_c) and Y ~ Beta(a_t, b_t), independent.

    On the scale of ``log(y / (1 - y))`` the density of Y has no pole, whatever a and b.
    """
    nodes, weights = _nodes()
    ends = betaincinv(a_t, b_t, TAIL), betainccinv(a_t, b_t, TAIL)
    low, high = (logit(min(max(float(end), TINY), 1 - TAIL)) for end in ends)
    odds = low + (nodes + 1) / 2 * (high - low)
    y = expit(odds)
    density = np.exp(a_t * log_expit(odds) + b_t * log_expit(-odds) - betaln(a_t, b_t))
    return float((weights * density) @ betainc(a_c, b_c, y) * (high - low) / 2)


@cache
def _nodes() -> tuple[Floats, Floats]:
    return np.polynomial.legendre.leggauss(NODES)
