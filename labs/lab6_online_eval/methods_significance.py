"""The fixed-horizon tests, each in the world it is for, as validation tries them.

Every simulated experiment goes through the function that an analysis would call. Three classic
mistakes are among them: they must not pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from labs.lab6_online_eval import proportions
from labs.lab6_online_eval.bootstrap import bootstrap_means, percentile_p, poisson_weights
from labs.lab6_online_eval.clustered import compare_clustered
from labs.lab6_online_eval.permutation import permutation_interval, studentised_permutation_test
from labs.lab6_online_eval.power import TwoArms, power_t
from labs.lab6_online_eval.quantiles import compare_quantiles
from labs.lab6_online_eval.ratio_metrics import RatioArm, compare_ratios, mean_of_ratios
from labs.lab6_online_eval.significance import Comparison, compare, compare_moments
from labs.lab6_online_eval.validation import ALPHA, Findings, Method

Floats = NDArray[np.float64]
Rng = np.random.Generator
World = Callable[[Rng, int, float], Comparison]
"""``world(rng, units, effect)``: one experiment with that many units an arm, analysed."""

MANY = 40_000
CHUNK = 100
N_BOOT = 1000
EVENTS = 5
QUARTILE, TAIL = 0.75, 0.9


def methods() -> list[Method]:
    """Thirteen that should pass, and three that must not."""
    return list(_methods())


@cache
def _methods() -> tuple[Method, ...]:
    return (
        _method("welch", _welch, 100, 0.45),
        _method("welch_cuped", _welch_cuped, 100, 0.4),
        _method("relative_delta", _relative, 800, 0.09, relative=True),
        _proportion("proportion_z", 0.2, 0.08, 400, proportions.wald),
        _proportion("newcombe", 0.03, 0.03, 800, proportions.newcombe),
        _method("ratio_delta", _ratio, 200, 0.05),
        _method("ratio_delta_cuped", _ratio_cuped, 200, 0.04),
        _method("quantile_analytic", _quantile, 500, 0.3, variance=QUARTILE / (1 - QUARTILE)),
        _method(
            "quantile_clustered",
            partial(_clustered_quantile, True),
            500,
            0.48,
            variance=tail_variance(),
        ),
        _method("clustered", _clustered, 100, 0.22),
        Method("permutation", _permutation, 0.9, power_t(0.9, TwoArms.of(40, 1.0))),
        Method("bootstrap_percentile", _bootstrap, 0.2, power_t(0.2, TwoArms.of(800, 1.0))),
        Method("bootstrap_poisson", _poisson, 0.05, _promised(_ratio, 200, 0.05)),
        _method("events_as_units", _events_as_units, 100, 0.22, flawed=True),
        _method("ratio_of_user_means", _user_means, 200, 0.05, flawed=True),
        _method(
            "quantile_as_independent", partial(_clustered_quantile, False), 500, 0.48, flawed=True
        ),
    )


def _method(
    name: str,
    world: World,
    units: int,
    effect: float,
    *,
    relative: bool = False,
    flawed: bool = False,
    variance: float | None = None,
) -> Method:
    """A method whose power follows from the variance of a unit: given, or read off one huge
    experiment."""

    def simulate(rng: Rng, n: int, effect: float) -> Findings:
        return _findings((world(rng, units, effect) for _ in range(n)), relative)

    power = None
    if variance is not None:
        power = power_t(effect, TwoArms.of(2 * units, variance))
    elif not flawed:
        power = _promised(world, units, effect, relative)
    return Method(name, simulate, effect, power=power, flawed=flawed)


def _promised(world: World, units: int, effect: float, relative: bool = False) -> float:
    """The power of the t-test at the standard error that ``units`` an arm will have."""
    huge = world(np.random.default_rng(0), MANY, effect)
    se = huge.se
    if relative:
        assert huge.relative_ci95 is not None
        se = (huge.relative_ci95[1] - huge.relative_ci95[0]) / 2 / float(norm.isf(ALPHA / 2))
    return power_t(effect, TwoArms.of(2 * units, se**2 * MANY / 2))


def _findings(comparisons: Iterable[Comparison], relative: bool = False) -> Findings:
    if relative:
        rows = [(c.relative, *(c.relative_ci95 or ()), c.relative_p) for c in comparisons]
    else:
        rows = [(c.effect, *c.ci95, c.p) for c in comparisons]
    return Findings(*np.array(rows, dtype=float).T)


def _welch(rng: Rng, units: int, effect: float) -> Comparison:
    """A skewed metric (gamma, shape 2, variance 1), and a treatment that adds to it."""
    values = rng.gamma(2.0, 0.5**0.5, (2, units))
    return compare(values[0], values[1] + effect)


def _welch_cuped(rng: Rng, units: int, effect: float) -> Comparison:
    """The same, where a covariate from before explains half of the variance."""
    before = rng.gamma(2.0, 0.5, (2, units))
    values = before + rng.gamma(2.0, 0.5, (2, units))
    return compare(
        values[0],
        values[1] + effect,
        control_covariate=before[0],
        treatment_covariate=before[1],
    )


def _relative(rng: Rng, units: int, effect: float) -> Comparison:
    """The relative effect of a treatment that multiplies a skewed metric."""
    values = rng.gamma(2.0, 1.0, (2, units))
    return compare(values[0], values[1] * (1 + effect))


def _proportion(
    name: str,
    rate: float,
    effect: float,
    units: int,
    interval: Callable[..., proportions.Interval],
) -> Method:
    """Counts of successes; p of the pooled z-test, with one or another interval."""

    def simulate(rng: Rng, n: int, effect: float) -> Findings:
        control = rng.binomial(units, rate, n)
        treated = rng.binomial(units, rate + effect, n)
        low, high = interval(control, units, treated, units)
        p = proportions.pooled_z_p(control, units, treated, units)
        return Findings((treated - control) / units, low, high, p)

    middle = rate + effect / 2
    pooled, apart = middle * (1 - middle) * 2, rate * (1 - rate)
    apart += (rate + effect) * (1 - rate - effect)
    critical = float(norm.isf(ALPHA / 2)) * pooled**0.5
    power = float(norm.sf((critical - effect * units**0.5) / apart**0.5))
    return Method(name, simulate, effect, power=power)


def _visits(rng: Rng, units: int, effect: float) -> list[Floats]:
    """Clicks and sessions during, and before: busy users, each with their own rate of clicks."""
    busy = rng.gamma(2.0, 1.0, units)
    rate = rng.uniform(0.1, 0.5, units)
    during, before = (1 + rng.poisson(3 * busy) for _ in range(2))
    clicks = rng.binomial(during, rate + effect), rng.binomial(before, rate)
    return [np.asarray(each, dtype=float) for each in (clicks[0], during, clicks[1], before)]


def _ratio(rng: Rng, units: int, effect: float) -> Comparison:
    """Clicks a session; the treatment adds to every user's rate."""
    arms = [_visits(rng, units, shift)[:2] for shift in (0.0, effect)]
    return compare_ratios(RatioArm(*arms[0]), RatioArm(*arms[1]))


def _ratio_cuped(rng: Rng, units: int, effect: float) -> Comparison:
    arms = [_visits(rng, units, shift) for shift in (0.0, effect)]
    return compare_ratios(RatioArm(*arms[0]), RatioArm(*arms[1]))


def _user_means(rng: Rng, units: int, effect: float) -> Comparison:
    """Wrong: the mean of users' own ratios, for the effect on clicks a session.

    The treatment helps a user the more, the more sessions there are: with N sessions the rate rises
    by ``effect E[N] (N - 1) / E[N (N - 1)]``, which is ``effect`` over all sessions.
    """
    parts = []
    for shift in (0.0, effect):
        sessions = 1 + rng.poisson(3 * rng.gamma(2.0, 1.0, units))
        # E[N - 1] = 6, E[(N - 1)^2] = 6 + 9 * 2 + 36 = 60
        rate = rng.uniform(0.1, 0.5, units) + shift * 7 * (sessions - 1) / 66
        clicks = rng.binomial(sessions, np.clip(rate, 0, 1))
        parts.append(mean_of_ratios(clicks, sessions))
    return compare_moments(*parts)


def _quantile(rng: Rng, units: int, effect: float) -> Comparison:
    """The upper quartile of a skewed metric, one value a unit."""
    values = rng.exponential(1.0, (2, units))
    return compare_quantiles(values[0], values[1] + effect, QUARTILE)


def _clustered_quantile(with_units: bool, rng: Rng, units: int, effect: float) -> Comparison:
    """The p90 of events, `EVENTS` a unit, whose units differ; with the units or, wrong, without."""
    values = rng.exponential(1.0, (2, units, EVENTS)) + rng.exponential(1.5, (2, units, 1))
    control, treatment = values[0].ravel(), values[1].ravel() + effect
    if not with_units:
        return compare_quantiles(control, treatment, TAIL)
    unit = np.repeat(np.arange(units), EVENTS)
    return compare_quantiles(control, treatment, TAIL, control_unit=unit, treatment_unit=unit)


def tail_variance() -> float:
    """The variance of a unit for the clustered quantile, from the law of its world.

    With U the unit's level and ``p(U)`` the share of its events up to the quantile x,

        (Var p(U) + E[p(U) (1 - p(U))] / EVENTS) / f(x)^2,    f(x) = E[1 - p(U); U < x].
    """
    share = (np.arange(20_000) + 0.5) / 20_000
    level = -1.5 * np.log(1 - share)

    def below(x: float) -> Floats:
        return np.asarray(-np.expm1(-np.maximum(x - level, 0)))

    cut = brentq(lambda x: float(below(x).mean()) - TAIL, 0, 50)
    p = below(cut)
    density = float((1 - p)[level < cut].sum()) / len(level)
    return float(p.var() + (p * (1 - p)).mean() / EVENTS) / density**2


def _rows(rng: Rng, units: int, effect: float) -> tuple[Floats, NDArray[np.int64]]:
    """Rows of one arm, 2 to 14 a unit, with an intracluster correlation of 0.2."""
    unit = np.repeat(np.arange(units), rng.integers(2, 15, units))
    level = 0.2**0.5 * rng.standard_normal(units)
    return effect + level[unit] + 0.8**0.5 * rng.standard_normal(len(unit)), unit


def _clustered(rng: Rng, units: int, effect: float) -> Comparison:
    (control, units_c), (treatment, units_t) = (_rows(rng, units, e) for e in (0.0, effect))
    found = compare_clustered(control, units_c, treatment, units_t + units)
    estimate = found.estimate
    return Comparison(
        effect=estimate.effect,
        ci95=estimate.ci95,
        p=estimate.p,
        relative=None,
        relative_ci95=None,
        se=estimate.se,
        n_control=units,
        n_treatment=units,
    )


def _events_as_units(rng: Rng, units: int, effect: float) -> Comparison:
    """Wrong: the same rows, each taken for an independent unit."""
    return compare(_rows(rng, units, 0.0)[0], _rows(rng, units, effect)[0])


def _permutation(rng: Rng, n: int, effect: float) -> Findings:
    """20 normal units an arm, 200 assignments: p < .05 with probability 10/201 under no effect."""
    found = []
    for _ in range(n):
        control, treatment = rng.standard_normal((2, 20))
        treatment += effect
        seed = int(rng.integers(2**32))
        p = studentised_permutation_test(control, treatment, n_resamples=200, seed=seed).p
        low, high = permutation_interval(control, treatment, n_resamples=200, seed=seed)
        found.append((treatment.mean() - control.mean(), low, high, p))
    return Findings(*np.array(found).T)


def _bootstrap(rng: Rng, n: int, effect: float) -> Findings:
    """400 exponential units an arm; `CHUNK` experiments share the draws, as metrics would."""
    replicates, effects = [], []
    for start in range(0, n, CHUNK):
        values = rng.exponential(1.0, (2, min(CHUNK, n - start), 400))
        values[1] += effect
        means = [
            bootstrap_means(arm, n_boot=N_BOOT, seed=int(rng.integers(2**32))) for arm in values
        ]
        replicates.append(means[1] - means[0])
        effects.append(values[1].mean(axis=1) - values[0].mean(axis=1))
    return _percentile(np.concatenate(effects), np.concatenate(replicates))


def _poisson(rng: Rng, n: int, effect: float) -> Findings:
    """Clicks a session of 200 users an arm, by weights of users."""
    replicates, effects = [], []
    for start in range(0, n, CHUNK):
        k = min(CHUNK, n - start)
        weights = poisson_weights(np.arange(400), N_BOOT, int(rng.integers(2**32))).astype(float)
        found = []
        for arm, shift in enumerate((0.0, effect)):
            clicks, sessions = (x.reshape(k, 200) for x in _visits(rng, 200 * k, shift)[:2])
            own = weights[200 * arm : 200 * (arm + 1)]
            found.append(
                (clicks.sum(axis=1) / sessions.sum(axis=1), clicks @ own / (sessions @ own))
            )
        effects.append(found[1][0] - found[0][0])
        replicates.append(found[1][1] - found[0][1])
    return _percentile(np.concatenate(effects), np.concatenate(replicates))


def _percentile(effect: Floats, replicates: Floats) -> Findings:
    low, high = np.quantile(replicates, [ALPHA / 2, 1 - ALPHA / 2], axis=1)
    return Findings(effect, low, high, percentile_p(replicates))
