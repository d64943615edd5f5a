"""Guardrails: the metrics that a better model must not make worse.

Latency, errors, hides and complaints. Each has a margin, written down before the run, and passes
when the data exclude a loss of that size (see `non_inferiority`).

With several guardrails two things are often confused. *All* of them have to pass, so a harmful
change gets through only by passing the test that it should fail, which happens with probability
alpha at most, however many others there are: **alpha needs no correction**. A harmless change,
on the other hand, has to pass all of them by chance too: G guardrails at power .8 each, and the
whole passes far less often. So **power is corrected**: each metric is planned for
``1 - beta / (G + 1)``.

Schultzberg, Ankargren & Franberg (2024), Risk-aware product decisions in A/B tests with multiple
metrics, https://arxiv.org/abs/2402.11609.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from scipy.stats import norm

from common.errors import InputError, require
from labs.lab6_online_eval.experiment import Metric, Role
from labs.lab6_online_eval.non_inferiority import NonInferiority, non_inferiority_test
from labs.lab6_online_eval.significance import Comparison


class Verdict(StrEnum):
    """What the data say of a guardrail."""

    SAFE = "safe"
    """A loss as large as the margin is excluded."""
    HARMED = "harmed"
    """A loss larger than the margin is certain, at level alpha."""
    UNDECIDED = "undecided"
    """Both are possible: too few units, or a true loss near the margin."""


@dataclass(frozen=True)
class Guardrail:
    """One guardrail as measured: the relative effect, its standard error, and its margin.

    ``dof`` are the degrees of freedom of ``se``; infinite gives the normal law.
    """

    name: str
    effect: float
    se: float
    margin: float
    higher_is_better: bool = True
    dof: float = inf

    @classmethod
    def of(cls, metric: Metric, comparison: Comparison) -> Guardrail:
        """A guardrail of an experiment's file, as compared.

        The standard error of the relative effect is that of its interval, in proportion to the
        absolute effect's: ``se_rel = se * (width of relative_ci95) / (width of ci95)``. Its degrees
        of freedom are those of the smaller arm, of which Welch's are never fewer: with arms of 90
        and 10 % and unequal variances the pooled ones let harm pass too often.

        Raises
        ------
        InputError
            The metric is no guardrail, or the control's mean is 0, of which no share can be lost.
        """
        if metric.role is not Role.GUARDRAIL or metric.margin is None:
            raise InputError(f"metric {metric.name} is {metric.role}; must have the role guardrail")
        if comparison.relative is None or comparison.relative_ci95 is None:
            raise InputError(
                f"guardrail {metric.name}: the control's mean is 0, so it has no relative effect; "
                "count a more frequent event"
            )
        widths = [high - low for low, high in (comparison.ci95, comparison.relative_ci95)]
        return cls(
            name=metric.name,
            effect=comparison.relative,
            se=comparison.se * widths[1] / widths[0],
            margin=metric.margin,
            higher_is_better=metric.higher_is_better,
            dof=min(comparison.n_control, comparison.n_treatment) - 1,
        )


@dataclass(frozen=True)
class GuardrailResult:
    """One guardrail, judged.

    Attributes
    ----------
    bound
        The worst relative effect that the data still allow (one-sided, level ``1 - alpha``).
    p, p_harm
        Of "worse by the margin or more" (small: safe) and of "not worse than the margin"
        (small: harmed).
    power
        Probability that a change *without* effect passes, with the standard error that was
        reached: what the experiment was able to say, not what it said.
    power_needed
        ``1 - beta / (G + 1)``.
    """

    name: str
    effect: float
    bound: float
    margin: float
    p: float
    p_harm: float
    verdict: Verdict
    power: float
    power_needed: float
    higher_is_better: bool

    @property
    def underpowered(self) -> bool:
        """Whether it could hardly have passed; an undecided verdict then says nothing."""
        return self.power < self.power_needed

    @property
    def sentence(self) -> str:
        """The verdict in words, for a report."""
        worst = f"the data allow {self.bound:+.1%}, the margin is {self._limit:+.1%}"
        if self.verdict is Verdict.SAFE:
            return f"{self.name}: not worse by the margin ({worst})"
        if self.verdict is Verdict.HARMED:
            return f"{self.name}: worse than the margin ({self.effect:+.1%}, {self._limit:+.1%})"
        power = f"; it passes with probability {self.power:.0%} if harmless"
        return f"{self.name}: not shown to be safe ({worst}{power if self.underpowered else ''})"

    @property
    def _limit(self) -> float:
        return -self.margin if self.higher_is_better else self.margin


def check_guardrails(
    guardrails: Sequence[Guardrail], *, alpha: float = 0.05, power: float = 0.8
) -> tuple[GuardrailResult, ...]:
    """Judge each guardrail at the planned end of an experiment, at one-sided ``alpha`` each.

    For an experiment that may be looked at more than once see `look_plan`.

    Parameters
    ----------
    alpha
        Of each guardrail; not divided among them (see the module).
    power
        That the experiment was planned for, as a whole.

    Raises
    ------
    InputError
        A guardrail whose effect or error is not a number; two with the same name.
    """
    names = [guardrail.name for guardrail in guardrails]
    require(len(set(names)) == len(names), "guardrails", names, "must have different names")
    needed = power_of_each(power, len(guardrails))
    results = []
    for guardrail in guardrails:
        test = non_inferiority_test(
            guardrail.effect,
            guardrail.se,
            guardrail.margin,
            higher_is_better=guardrail.higher_is_better,
            alpha=alpha,
            dof=guardrail.dof,
        )
        passes = float(norm.cdf(guardrail.margin / guardrail.se - norm.isf(alpha)))
        results.append(judged(guardrail, test, passes, needed))
    return tuple(results)


def judged(
    guardrail: Guardrail, test: NonInferiority, power: float, power_needed: float
) -> GuardrailResult:
    """The result of one guardrail from its test."""
    verdict = Verdict.SAFE if test.non_inferior else Verdict.UNDECIDED
    if test.harmful:
        verdict = Verdict.HARMED
    return GuardrailResult(
        name=guardrail.name,
        effect=guardrail.effect,
        bound=test.bound,
        margin=guardrail.margin,
        p=test.p,
        p_harm=test.p_harm,
        verdict=verdict,
        power=power,
        power_needed=power_needed,
        higher_is_better=guardrail.higher_is_better,
    )


def power_of_each(power: float, n_guardrails: int) -> float:
    """The power each metric needs, so that success *and* G guardrails pass with ``power``.

    ``1 - (1 - power) / (G + 1)``, by the union bound: beta is split over the guardrails and the
    success metric. Four guardrails and power .8: .96 each.
    """
    require(0 < power < 1, "power", power, "must be in (0, 1)", "try 0.8")
    require(n_guardrails >= 0, "n_guardrails", n_guardrails, "must be at least 0")
    return 1 - (1 - power) / (n_guardrails + 1)
