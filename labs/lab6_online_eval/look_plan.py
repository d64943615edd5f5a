"""What an interval and a p-value are at this look, given how often the experiment may be looked at.

The same estimate and standard error give three answers. At the one planned end, Welch's test. At
any time, a confidence sequence. At one of K planned looks, a group-sequential boundary. The
experiment's file says which, so that nobody chooses after having seen the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from scipy.stats import norm

from common.errors import InputError
from labs.lab6_online_eval.confidence_sequences import (
    always_valid_p,
    half_width,
    one_sided_always_valid_p,
    one_sided_half_width,
)
from labs.lab6_online_eval.experiment import Experiment, Looks
from labs.lab6_online_eval.group_sequential import repeated_p, spending_boundaries
from labs.lab6_online_eval.guardrails import Guardrail, GuardrailResult, check_guardrails, judged
from labs.lab6_online_eval.non_inferiority import NonInferiority
from labs.lab6_online_eval.significance import Comparison

TUNED_FOR = 5_000.0
"""Units at which the confidence sequence is narrow: fixed once, for every experiment."""
ON_TIME_DAYS = 0.25
"""How far from its planned time a look may be."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Inference:
    """An estimate, its interval at level 1 - alpha, and its two-sided p, valid at this look."""

    estimate: float
    interval: Interval
    p: float

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.interval[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.interval[1]


@dataclass(frozen=True)
class LookPlan:
    """This look among those that were planned.

    Attributes
    ----------
    look, n_looks
        From 1; both 1 for a fixed horizon, ``n_looks`` 0 where there is no plan of looks.
    left
        Whether there will be another look.
    method
        The sequential method's name in the validation table; empty for a fixed horizon.
    """

    looks: Looks
    look: int
    n_looks: int
    left: bool
    alpha: float

    @property
    def method(self) -> str:
        names = {Looks.ALWAYS: "confidence_sequence", Looks.PLANNED: "obrien_fleming"}
        return names.get(self.looks, "")

    def absolute(self, comparison: Comparison) -> Inference:
        """The effect of a comparison that was made at ``alpha``."""
        if self.looks is Looks.ONCE:
            return Inference(comparison.effect, comparison.ci95, comparison.p)
        return self._infer(comparison.effect, comparison.se, comparison)

    def relative(self, comparison: Comparison) -> Inference | None:
        """The relative effect, or None when the control's mean is 0."""
        if comparison.relative is None or comparison.relative_ci95 is None:
            return None
        if self.looks is Looks.ONCE:
            p = 1.0 if comparison.relative_p is None else comparison.relative_p
            return Inference(comparison.relative, comparison.relative_ci95, p)
        return self._infer(comparison.relative, relative_se(comparison), comparison)

    def _infer(self, estimate: float, se: float, comparison: Comparison) -> Inference:
        if self.looks is Looks.ALWAYS:
            n = comparison.n_control + comparison.n_treatment
            half = float(half_width(se, n, tuned_for=TUNED_FOR, alpha=self.alpha))
            p = float(always_valid_p(estimate, se, n, tuned_for=TUNED_FOR, alpha=self.alpha))
        else:
            critical, p = self._boundary(estimate / se, self.alpha)
            half = critical * se
        return Inference(estimate, (estimate - half, estimate + half), p)

    def _boundary(self, z: float, alpha: float) -> tuple[float, float]:
        """The boundary at this look, and the two-sided repeated p: below alpha when beyond it."""
        looks = np.arange(1.0, self.n_looks + 1)
        plan = spending_boundaries(looks, alpha=alpha)
        return float(plan.z[self.look - 1]), repeated_p(looks, self.look - 1, z)

    def guardrails(
        self, guardrails: list[Guardrail], units: list[int], power: float
    ) -> tuple[GuardrailResult, ...]:
        """Each guardrail judged one-sided at ``alpha``, valid at this look; ``units`` of both arms.

        Group-sequential: by the boundaries of a two-sided plan at ``2 alpha``.
        """
        planned = check_guardrails(guardrails, alpha=self.alpha, power=power)
        if self.looks is Looks.ONCE:
            return planned
        return tuple(
            self._guardrail(guardrail, n, result.power_needed)
            for guardrail, n, result in zip(guardrails, units, planned, strict=True)
        )

    def _guardrail(self, guardrail: Guardrail, n: int, needed: float) -> GuardrailResult:
        sign = 1.0 if guardrail.higher_is_better else -1.0
        gain, se = sign * guardrail.effect, guardrail.se
        excess = gain + guardrail.margin
        if self.looks is Looks.ALWAYS:
            half = float(one_sided_half_width(se, n, tuned_for=TUNED_FOR, alpha=self.alpha))
            p, p_harm = (
                float(one_sided_always_valid_p(way, se, n, tuned_for=TUNED_FOR, alpha=self.alpha))
                for way in (excess, -excess)
            )
        else:
            critical, both = self._boundary(excess / se, 2 * self.alpha)
            half = critical * se
            p = both / 2 if excess > 0 else 1 - both / 2
            p_harm = 1 - p
        test = NonInferiority(
            effect=guardrail.effect,
            se=se,
            margin=guardrail.margin,
            bound=sign * (gain - half),
            p=p,
            p_harm=p_harm,
            non_inferior=p < self.alpha,
            harmful=p_harm < self.alpha,
        )
        passes = float(norm.cdf((guardrail.margin - half) / se))
        return judged(guardrail, test, passes, needed)


def relative_se(comparison: Comparison) -> float:
    """Standard error of the relative effect, from the widths of the comparison's intervals."""
    if comparison.relative_ci95 is None:
        raise InputError("the control's mean is 0: there is no relative effect")
    widths = [high - low for low, high in (comparison.ci95, comparison.relative_ci95)]
    return comparison.se * widths[1] / widths[0]


def look_plan(experiment: Experiment, until: datetime, alpha: float) -> LookPlan:
    """The look at ``until``.

    Raises
    ------
    InputError
        A look that the file does not plan: before the end of a fixed horizon, or between looks.
    """
    end = experiment.start + timedelta(days=experiment.days)
    passed = (until - experiment.start) / timedelta(days=1)
    if experiment.looks is Looks.ALWAYS:
        return LookPlan(experiment.looks, 1, 0, until < end, alpha)
    if experiment.looks is Looks.ONCE:
        if experiment.days - passed > ON_TIME_DAYS:
            raise InputError(
                f"day {passed:.1f} of {experiment.days}: the file plans one look, at the end; an "
                f"earlier one raises the error rate. Wait until {end:%Y-%m-%d %H:%M}, or plan "
                'looks = "always" next time'
            )
        return LookPlan(experiment.looks, 1, 1, False, alpha)
    between = experiment.days / experiment.n_looks
    look = round(passed / between)
    if look < 1 or abs(passed - look * between) > ON_TIME_DAYS:
        days = ", ".join(f"{between * k:g}" for k in range(1, experiment.n_looks + 1))
        raise InputError(f"day {passed:.1f} is no planned look; the looks are on days {days}")
    return LookPlan(experiment.looks, look, experiment.n_looks, look < experiment.n_looks, alpha)
