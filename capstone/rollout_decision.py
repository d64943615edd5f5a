"""What a rollout does next: the evidence of one look, judged, and the rule that acts on it.

Two kinds of evidence. *Guardrails* (errors, fallbacks, slow feeds, hides) can only forbid: one that
is certainly broken sends the candidate back, whatever the clicks say. *Success* (clicks a session)
is what the candidate has to win. Both are intervals that hold at every look, since a controller
looks many times and an ordinary 95 % interval that is looked at often enough excludes the truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf, sqrt
from typing import Literal

from common.errors import require
from common.exercises.marker import exercise
from labs.lab4_model_serving.rollout_policy import (
    P99_SHARE,
    Action,
    Verdict,
    confidence_sequence,
    judge,
)
from labs.lab6_online_eval.automatic_stop import LEAST_EVENTS
from labs.lab6_online_eval.confidence_sequences import (
    compare_always_valid,
    one_sided_always_valid_p,
)
from labs.lab6_online_eval.experiment import STRICT
from labs.lab6_online_eval.significance import Moments

GUARDRAILS = ("errors", "fallbacks", "slow", "hides")
LEAST_SESSIONS = 100
"""Sessions an arm below which the normal law behind the interval of the clicks is not trusted."""
Arm = Literal["champion", "candidate"]
_shares = lru_cache(maxsize=50_000)(confidence_sequence)


@dataclass(frozen=True)
class ArmWindow:
    """What was seen of one arm since its step began. Counts.

    Attributes
    ----------
    feeds
        Requests, failed ones included.
    errors, fallbacks, slow
        Feeds that failed, that were answered by the fallback, that came after the limit.
    sessions
        Feeds whose reactions are known: those that a person saw.
    hidden
        Sessions with at least one hide.
    clicks, squares
        Sum over sessions of their clicks, and of the clicks squared.
    """

    feeds: int = 0
    errors: int = 0
    fallbacks: int = 0
    slow: int = 0
    sessions: int = 0
    hidden: int = 0
    clicks: float = 0.0
    squares: float = 0.0

    def __add__(self, other: ArmWindow) -> ArmWindow:
        return ArmWindow(*(a + b for a, b in zip(self.row, other.row, strict=True)))  # type: ignore[arg-type]

    @property
    def row(self) -> tuple[float, ...]:
        """All counts in the order of the fields."""
        return tuple(getattr(self, name) for name in self.__annotations__)

    @property
    def moments(self) -> Moments:
        """Clicks a session."""
        return Moments.of_sums(self.sessions, self.clicks, self.squares)


@dataclass(frozen=True)
class Limits:
    """What a candidate must keep, and how sure one must be.

    Attributes
    ----------
    slow_ms
        A feed above it is slow.
    slow_rate, error_rate, fallback_rate
        Share of its feeds that may be slower, fail, or be fallbacks; or as many as of the
        champion's.
    hide_margin
        Sessions with a hide may be more frequent by this share of the champion's.
    success_margin
        Clicks a session it may lose and still be promoted; 0 asks for a certain gain.
    alpha
        Chance that the whole rollout sends back a candidate which keeps every guardrail; and, by
        itself, that it promotes one whose clicks are worse by the margin.
    tuned_for
        Sessions of both arms at which the interval of the clicks is narrowest.
    """

    slow_ms: float = 50.0
    slow_rate: float = P99_SHARE
    error_rate: float = 0.01
    fallback_rate: float = 0.02
    hide_margin: float = 0.5
    success_margin: float = 0.0
    alpha: float = 0.05
    tuned_for: float = 5_000.0

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        require(self.slow_ms > 0, "slow_ms", self.slow_ms, "must be > 0")
        for name in ("slow_rate", "error_rate", "fallback_rate"):
            require(0 < getattr(self, name) < 1, name, getattr(self, name), "must be in (0, 1)")
        require(self.hide_margin > 0, "hide_margin", self.hide_margin, "must be > 0", "try 0.5")
        require(
            self.success_margin >= 0,
            "success_margin",
            self.success_margin,
            "must be >= 0",
            "0 asks for a gain",
        )
        require(0 < self.alpha < 0.5, "alpha", self.alpha, "must be in (0, 0.5)", "try 0.05")
        require(self.tuned_for > 0, "tuned_for", self.tuned_for, "must be > 0", "try 5000")


@dataclass(frozen=True)
class Step:
    """One step of a rollout.

    Attributes
    ----------
    name
        Of the state, such as ``shadow``, ``5 %``, ``50 %``.
    weight
        Share of the units that get the candidate; 0 is a shadow: it is asked, nobody sees it.
    feeds
        Feeds of the candidate before the next step may begin.
    looks
        Looks after which a step that is not passed ends the rollout.
    """

    name: str
    weight: float
    feeds: int
    looks: int

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        where = f"step {self.name}: "
        require(0 <= self.weight < 1, where + "weight", self.weight, "must be in [0, 1)")
        require(self.feeds >= 1, where + "feeds", self.feeds, "must be >= 1")
        require(self.looks >= 1, where + "looks", self.looks, "must be >= 1")


@dataclass(frozen=True)
class Evidence:
    """One look at a step, judged. Every part holds at all looks together.

    Attributes
    ----------
    feeds
        Of the candidate, since the step began.
    looks
        At this step, this one included.
    guardrails
        Guardrail to ``"harm"`` (certainly broken), ``"safe"`` (certainly kept) or ``"undecided"``.
    success
        Interval of the candidate's clicks a session minus the champion's; infinite ends as long as
        nothing is known, as in a shadow.
    """

    feeds: int
    looks: int
    guardrails: Mapping[str, Verdict]
    success: tuple[float, float] = (-inf, inf)


@dataclass(frozen=True)
class Decision:
    """What to do now, and why in one sentence."""

    action: Action
    reason: str


@exercise(
    "7.13",
    points=10,
    title="Decide the next step of a rollout",
    hint="Sort the rows of the table by who may overrule whom. An interval that holds zero says "
    "neither 'better' nor 'worse': which rows may it satisfy?",
)
def next_action(step: Step, evidence: Evidence, *, last: bool, margin: float = 0.0) -> Decision:
    """The rule of a rollout, from one look at one step; the first row that fits decides.

    ===  ================================================================  ============
    row  condition                                                         action
    ===  ================================================================  ============
    1    a guardrail says ``"harm"``                                       ``rollback``
    2    success: the whole interval is below ``-margin``                  ``rollback``
    3    ``evidence.feeds >= step.feeds`` and this is not the last step    ``advance``
    4    the same on the last step, with every guardrail ``"safe"`` and    ``advance``
         the whole interval of success above ``-margin``
    5    ``evidence.looks >= step.looks``: time is up                      ``rollback``
    6    otherwise                                                         ``wait``
    ===  ================================================================  ============

    Row 4 asks for proof and row 5 follows from it: a candidate of which nothing could be shown
    within the planned looks is not promoted. A shadow knows no clicks, so its interval is infinite.

    Parameters
    ----------
    step
        Where the rollout is.
    evidence
        The look.
    last
        Whether the candidate gets everybody when this step is passed.
    margin
        Clicks a session that it may lose, >= 0; with 0 it has to win.

    Returns
    -------
    Decision
        ``action`` and a ``reason`` of one sentence.
    """
    # BEGIN SOLUTION
    low, high = evidence.success
    harmed = [name for name, verdict in evidence.guardrails.items() if verdict == "harm"]
    if harmed:
        return Decision("rollback", f"harm: {', '.join(harmed)}")
    if high < -margin:
        return Decision("rollback", f"a loss of clicks is certain: {low:+.3f} to {high:+.3f}")
    enough = evidence.feeds >= step.feeds
    if enough and not last:
        return Decision("advance", f"{evidence.feeds} feeds and no harm")
    open_ = [name for name, verdict in evidence.guardrails.items() if verdict != "safe"]
    if enough and not open_ and low > -margin:
        return Decision("advance", f"all guardrails safe, clicks {low:+.3f} to {high:+.3f}")
    missing = f"{evidence.feeds} of {step.feeds} feeds"
    if enough:
        what = [f"{name} not shown safe" for name in open_]
        what += [] if low > -margin else [f"clicks {low:+.3f} to {high:+.3f}"]
        missing = "; ".join(what)
    if evidence.looks >= step.looks:
        return Decision("rollback", f"given up after {evidence.looks} looks: {missing}")
    return Decision("wait", missing)
    # END SOLUTION


def judge_windows(
    candidate: ArmWindow, champion: ArmWindow, limits: Limits, *, looks: int, steps: int
) -> Evidence:
    """One look's evidence from what was counted of both arms.

    Errors, fallbacks and slow feeds are rare: each share has lab 4's exact confidence sequence,
    and harm is a share certainly above both its limit and the champion's own. Hides are frequent
    enough for the normal law: lab 6's always-valid one-sided test of
    ``rate_candidate - (1 + hide_margin) * rate_champion``. Success is lab 6's always-valid
    interval of the difference in clicks a session.

    A shadow has no sessions: of it errors and fallbacks are judged, and nothing else is known.

    Every step has an alpha of its own, ``limits.alpha / steps``; within it the guardrails share
    one (any of five bounds may mislead), and success has another.

    Parameters
    ----------
    candidate, champion
        Over the same time.
    looks
        At this step, this one included.
    steps
        Of the rollout.
    """
    alpha = limits.alpha / steps
    each = alpha / 5
    verdicts: dict[str, Verdict] = {}
    for name, limit in (
        ("errors", limits.error_rate),
        ("fallbacks", limits.fallback_rate),
        ("slow", limits.slow_rate),
    ):
        if name == "slow" and not candidate.sessions:
            continue  # nobody waits for a shadow's feed
        new = _shares(getattr(candidate, name), candidate.feeds, each)
        old = _shares(getattr(champion, name), champion.feeds, each)
        verdicts[name] = judge(new, max(limit, old[0]), max(limit, old[1]))
    both = min(candidate.sessions, champion.sessions)
    known = both >= LEAST_SESSIONS
    if candidate.sessions:
        verdicts["hides"] = _hides(candidate, champion, limits, each) if known else "undecided"
    success = (-inf, inf)
    if known and champion.moments.variance + candidate.moments.variance > 0:
        found = compare_always_valid(
            champion.moments, candidate.moments, tuned_for=limits.tuned_for, alpha=alpha
        )
        success = found.ci
    return Evidence(candidate.feeds, looks, verdicts, success)


def _hides(candidate: ArmWindow, champion: ArmWindow, limits: Limits, alpha: float) -> Verdict:
    if candidate.hidden + champion.hidden < LEAST_EVENTS:
        return "undecided"
    factor = 1 + limits.hide_margin
    new, old = candidate.hidden / candidate.sessions, champion.hidden / champion.sessions
    # With few hides an arm's own variance is too small by chance: it is at least that of the rate
    # at which harm would be exactly the margin (as labs.lab6_online_eval.automatic_stop does).
    common = (candidate.hidden + champion.hidden) / (
        champion.sessions + factor * candidate.sessions
    )
    variance = max(new * (1 - new), factor * common * (1 - factor * common)) / candidate.sessions
    variance += factor**2 * max(old * (1 - old), common * (1 - common)) / champion.sessions
    excess, n = new - factor * old, candidate.sessions + champion.sessions
    harm, safe = (
        float(
            one_sided_always_valid_p(
                way, sqrt(variance), n, tuned_for=limits.tuned_for, alpha=alpha
            )
        )
        for way in (excess, -excess)
    )
    return "harm" if harm < alpha else "safe" if safe < alpha else "undecided"
