"""The ship rule: written down before the run, applied by a program after it.

=========  ==============  ============  ==============  ============  ==========  ========
checks     success metric  a guardrail   all guardrails  success       looks left  decision
healthy    worse           harmed        non-inferior    metric better
=========  ==============  ============  ==============  ============  ==========  ========
no         any             any           any             any           any         refuse
yes        yes             any           any             any           any         stop
yes        no              yes           any             any           any         stop
yes        no              no            yes             yes           any         ship
yes        no              no            yes             no            yes         extend
yes        no              no            no              any           yes         extend
yes        no              no            any other combination         no          stop
=========  ==============  ============  ==============  ============  ==========  ========

What the error rates are of:

* *better*: two-sided p, corrected by Holm over the success metrics, since one of them is enough;
* *non-inferior*: one-sided p below alpha for each guardrail, **not** corrected, since all of them
  must pass (see `guardrails`);
* *worse* and *harmed*: at alpha, not corrected. A correction would make it harder to notice harm.

"Extend" means to go on to the next look of the plan. It is open only to an experiment whose
p-values hold at every look (`confidence_sequences`, `group_sequential`). A fixed horizon has no
looks left at its end, and another week for a p of .06 is a second look.

After Schultzberg, Ankargren & Franberg (2024), https://arxiv.org/abs/2402.11609.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

from common.errors import require
from common.exercises import exercise
from labs.lab6_online_eval.guardrails import GuardrailResult
from labs.lab6_online_eval.multiple_testing import holm


class Decision(StrEnum):
    """What is done with the treatment."""

    SHIP = "ship"
    EXTEND = "extend"
    """Go on to the next planned look."""
    STOP = "stop"
    """Back to the control."""
    REFUSE = "refuse"
    """No decision: the data cannot be trusted. Find the fault and run again."""


@dataclass(frozen=True)
class SuccessResult:
    """One success metric: the effect and its two-sided p-value, valid at this look."""

    name: str
    effect: float
    p: float
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        where = f"success metric {self.name}: "
        require(isfinite(self.effect), where + "effect", self.effect, "must be finite")
        require(0 <= self.p <= 1, where + "p", self.p, "must be between 0 and 1")

    @property
    def gain(self) -> float:
        """The effect, positive for better."""
        return self.effect if self.higher_is_better else -self.effect


@dataclass(frozen=True)
class Ruling:
    """The decision, and the sentences that explain it; ``better`` and ``worse`` name metrics."""

    decision: Decision
    reasons: tuple[str, ...]
    better: tuple[str, ...]
    worse: tuple[str, ...]


def holm_adjusted(p: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted for their number, in the order given.

    By `multiple_testing.holm`; none for no success metric.
    """
    return tuple(float(value) for value in holm(p)) if len(p) else ()


@exercise(
    "6.15",
    points=10,
    title="Apply the ship rule",
    hint="Ask of every condition whether one metric is enough or all are needed. Which of the two "
    "gives chance more opportunities, and so needs a correction?",
)
def decide(
    success: Sequence[SuccessResult],
    guardrails: Sequence[GuardrailResult],
    *,
    failed_checks: Sequence[str] = (),
    alpha: float = 0.05,
    looks_left: bool = False,
) -> Ruling:
    """The decision by the table at the head of this module; the first row that fits, decides.

    A success metric is *better* when its Holm-adjusted p (`holm_adjusted`) is below alpha and its
    ``gain`` is positive, *worse* when its own p is below alpha and its gain is negative. A
    guardrail is non-inferior when ``p < alpha`` and harmed when ``p_harm < alpha``.

    Parameters
    ----------
    success
        At least one.
    guardrails
        As `check_guardrails` gives them; none is allowed.
    failed_checks
        What is wrong with the data (a sample ratio mismatch, ...), one sentence each.
    looks_left
        Whether the plan has a look after this one.

    Returns
    -------
    Ruling
        ``reasons`` holds one sentence or more; for a refusal, the failed checks.

    Raises
    ------
    InputError
        No success metric: then nothing could ever ship.
    """
    require(len(success) >= 1, "success metrics", len(success), "must be at least 1")
    require(0 < alpha < 0.5, "alpha", alpha, "must be in (0, 0.5)", "try 0.05")
    # BEGIN SOLUTION
    adjusted = holm_adjusted([metric.p for metric in success])
    better = tuple(
        metric.name
        for metric, p in zip(success, adjusted, strict=True)
        if p < alpha and metric.gain > 0
    )
    worse = tuple(metric.name for metric in success if metric.p < alpha and metric.gain < 0)
    harmed = [guardrail for guardrail in guardrails if guardrail.p_harm < alpha]
    not_shown = [guardrail for guardrail in guardrails if not guardrail.p < alpha]
    if failed_checks:
        decision, reasons = Decision.REFUSE, tuple(failed_checks)
    elif worse:
        decision, reasons = Decision.STOP, tuple(f"{n}: significantly worse" for n in worse)
    elif harmed:
        decision, reasons = Decision.STOP, tuple(each.sentence for each in harmed)
    elif better and not not_shown:
        decision = Decision.SHIP
        reasons = (f"better: {', '.join(better)}", *(each.sentence for each in guardrails))
    else:
        decision = Decision.EXTEND if looks_left else Decision.STOP
        missing = () if better else ("no success metric is significantly better",)
        reasons = (*missing, *(each.sentence for each in not_shown))
    return Ruling(decision, reasons, better, worse)
    # END SOLUTION
