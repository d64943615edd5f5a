"""Guardrails tried on simulated truth: the ship rule's errors, and the automatic stop's hours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from common.errors import require
from common.statistics import proportion_ci
from labs.lab6_online_eval.automatic_stop import SLOW_MS, WATCHED, StopReport, watch
from labs.lab6_online_eval.guardrails import power_of_each
from labs.lab6_online_eval.world import Ints, Service, Sessions, World, simulate

Floats = NDArray[np.float64]
HOURS_A_DAY = 24

HEALTHY = Service()


def at_the_margins() -> Service:
    """A service that is worse by exactly the margin on every guardrail of `WATCHED`."""
    margins = {guardrail.name: 1 + guardrail.margin for guardrail in WATCHED}
    slow = slow_share(HEALTHY) * margins["slow_sessions"]
    return Service(
        latency_ms=SLOW_MS / float(np.exp(norm.isf(slow) * HEALTHY.spread)),
        error_rate=HEALTHY.error_rate * margins["errors"],
        hide_rate=HEALTHY.hide_rate * margins["hides"],
    )


def slow_share(service: Service) -> float:
    """True share of sessions above `SLOW_MS`, latency being log-normal."""
    return float(norm.sf(np.log(SLOW_MS / service.latency_ms) / service.spread))


FAULTS: dict[str, Service] = {
    "slow_sessions": Service(latency_ms=110.0),
    "errors": Service(error_rate=0.02),
    "hides": Service(hide_rate=0.004),
}


@dataclass(frozen=True)
class Stops:
    """Experiments that were stopped, of n, with the Wilson interval of the share.

    ``hours`` float [n]: when; infinite for those that ran to the end. ``right_reason`` is the
    share of the stopped ones that named the faulty guardrail (NaN where none or no fault).
    ``naive_share`` is the share that an hourly test at one-sided p < .05 of each would have
    stopped.
    """

    name: str
    n: int
    share: float
    share_ci: tuple[float, float]
    hours: Floats
    right_reason: float
    naive_share: float

    @property
    def median_hours(self) -> float:
        """Median hours until the stop over all n; infinite when half of them were not stopped."""
        return float(np.median(self.hours))


@dataclass(frozen=True)
class AutomaticStopStudy:
    """False stops without a fault and at the margins, faults found, and one example's watch."""

    healthy: Stops
    at_margin: Stops
    faults: tuple[Stops, ...]
    example: StopReport
    days: float


def study_automatic_stop(
    world: World,
    lists: tuple[Ints, Ints],
    *,
    n_healthy: int = 1000,
    n_margin: int = 500,
    n_faulty: int = 30,
    units: int = 1500,
    units_faulty: int = 5000,
    days: int = 7,
    seed: int = 0,
) -> AutomaticStopStudy:
    """Run the watch, hour by hour, over simulated experiments of known health.

    Parameters
    ----------
    lists
        Control's and treatment's, int [n_users, k] each.
    units, units_faulty
        Units of an experiment without and with a fault.

    Notes
    -----
    False stops are counted where they are most probable, at the margins, and where everybody
    expects none. Units are users of the world, drawn with replacement.
    """
    hours = np.arange(1.0, days * HOURS_A_DAY + 1)

    def run(service: Service, n_units: int, key: tuple[int, ...]) -> Sessions:
        rng = np.random.default_rng(key)
        people = rng.integers(0, world.n_users, n_units)
        arm = rng.integers(0, 2, n_units)
        return simulate(
            world,
            lists,
            arm,
            people,
            days=days,
            seed=int(rng.integers(2**31)),
            services=(HEALTHY, service),
        )

    def stops(name: str, service: Service, n: int, n_units: int, key: int) -> Stops:
        require(n >= 1, f"experiments with {name}", n, "must be at least 1")
        reports = [watch(run(service, n_units, (seed, key, i)), hours) for i in range(n)]
        stopped = [report for report in reports if report.stopped]
        right = [report.guardrail == name for report in stopped]
        return Stops(
            name=name,
            n=n,
            share=len(stopped) / n,
            share_ci=proportion_ci(len(stopped), n),
            hours=np.array([np.inf if r.hour is None else r.hour for r in reports]),
            right_reason=float(np.mean(right)) if right and name in FAULTS else float("nan"),
            naive_share=float(np.mean([naive_stop(report) for report in reports])),
        )

    return AutomaticStopStudy(
        healthy=stops("healthy", HEALTHY, n_healthy, units, 0),
        at_margin=stops("at_margin", at_the_margins(), n_margin, units, 1),
        faults=tuple(
            stops(name, service, n_faulty, units_faulty, key)
            for key, (name, service) in enumerate(FAULTS.items(), start=2)
        ),
        example=watch(run(FAULTS["slow_sessions"], units_faulty, (seed, 9)), hours),
        days=days,
    )


def naive_stop(report: StopReport, *, alpha: float = 0.05) -> bool:
    """Whether an hourly one-sided z-test of each guardrail would ever have stopped it.

    From the same estimates at the looks that counted: what differs is the threshold, which holds
    for one look.
    """
    return any(
        bool((track.excess[track.counted] > norm.isf(alpha) * track.se[track.counted]).any())
        for track in report.tracks
    )


@dataclass(frozen=True)
class GuardrailStudy:
    """The ship rule's guardrail part on simulated estimates, G guardrails.

    ``pass_planned`` and ``pass_corrected``: a harmless change passes all, each planned for power
    .8, and each for ``1 - beta / (G + 1)``. The others: a change that is worse by exactly the
    margin on one guardrail, and harmless on the rest, gets through: each at alpha (``harm``), with
    Bonferroni (``harm_bonferroni``), with alpha times G (``harm_inflated``), and when one pass is
    enough (``harm_any``).
    """

    n_guardrails: int
    n: int
    pass_planned: float
    pass_corrected: float
    pass_bonferroni: float
    harm: float
    harm_bonferroni: float
    harm_inflated: float
    harm_any: float


def study_guardrails(
    *, n_guardrails: int = 4, n: int = 20_000, correlation: float = 0.3, seed: int = 0
) -> GuardrailStudy:
    """How often harmless and harmful changes pass, under each way to treat many guardrails.

    The z-statistics are normal with the given correlation between guardrails; their means are
    those that the planned power implies.
    """
    require(n_guardrails >= 1, "n_guardrails", n_guardrails, "must be at least 1")
    require(0 <= correlation < 1, "correlation", correlation, "must be in [0, 1)")
    alpha, power = 0.05, 0.8
    rng = np.random.default_rng(seed)
    shared = np.sqrt(correlation) * rng.standard_normal((n, 1))
    noise = shared + np.sqrt(1 - correlation) * rng.standard_normal((n, n_guardrails))

    def passes(each: float, level: float, *, harmed: bool) -> NDArray[np.bool_]:
        mean = np.full(n_guardrails, norm.isf(alpha) + norm.isf(1 - each))
        if harmed:
            mean[0] = 0.0
        return np.asarray(noise + mean > norm.isf(level))

    corrected = power_of_each(power, n_guardrails)
    bonferroni, inflated = alpha / n_guardrails, min(alpha * n_guardrails, 0.999)

    def share(passed: ArrayLike) -> float:
        return float(np.asarray(passed).mean())

    return GuardrailStudy(
        n_guardrails=n_guardrails,
        n=n,
        pass_planned=share(passes(power, alpha, harmed=False).all(axis=1)),
        pass_corrected=share(passes(corrected, alpha, harmed=False).all(axis=1)),
        pass_bonferroni=share(passes(corrected, bonferroni, harmed=False).all(axis=1)),
        harm=share(passes(corrected, alpha, harmed=True).all(axis=1)),
        harm_bonferroni=share(passes(corrected, bonferroni, harmed=True).all(axis=1)),
        harm_inflated=share(passes(corrected, inflated, harmed=True).all(axis=1)),
        harm_any=share(passes(corrected, alpha, harmed=True).any(axis=1)),
    )
