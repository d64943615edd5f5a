r"""When a new version may go on, and when it must go back: the rule of a rollout, without I/O.

Every guardrail is a share of bad requests: slow ones ("p99 <= 50 ms" says that at most 1 % are
slower), failed ones, wrong ones among those whose true label is known. Each share has an interval
that may be looked at after every request (a *confidence sequence*), because a controller looks
every second, and a 95 % interval that is looked at often enough excludes the truth sooner or later.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma, log
from typing import Literal

from common.errors import require
from common.exercises import exercise

Verdict = Literal["harm", "safe", "undecided"]
Action = Literal["wait", "advance", "rollback"]
P99_SHARE = 0.01


@dataclass(frozen=True)
class Window:
    """What was seen of one version since its window began. Counts of requests, milliseconds."""

    requests: int = 0
    errors: int = 0
    slow: int = 0
    """Above the window's limit, failed ones included."""
    labelled: int = 0
    wrong: int = 0
    """Of those labelled."""
    mean_ms: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None

    @property
    def accuracy(self) -> float | None:
        return 1 - self.wrong / self.labelled if self.labelled else None


@dataclass(frozen=True)
class Guardrails:
    """What the new version must keep."""

    p99_ms: float = 50.0
    """At most 1 % of its requests may be slower."""
    error_rate: float = 0.01
    """At most this share may fail."""
    accuracy_margin: float = 0.05
    """Its accuracy may be below the old version's by at most this."""
    alpha: float = 0.05
    """Chance that the whole rollout sends back a version which keeps them all."""
    least_samples: int = 30
    """Nothing is decided on fewer requests of the new version: the first meet cold caches."""

    def __post_init__(self) -> None:
        require(self.p99_ms > 0, "p99_ms", self.p99_ms, "must be > 0")
        require(0 < self.error_rate < 1, "error_rate", self.error_rate, "must be in (0, 1)")
        margin = self.accuracy_margin
        require(0 < margin < 1, "accuracy_margin", margin, "must be in (0, 1)")
        require(0 < self.alpha < 0.5, "alpha", self.alpha, "must be in (0, 0.5)", "try 0.05")
        require(self.least_samples >= 1, "least_samples", self.least_samples, "must be >= 1")


@dataclass(frozen=True)
class Check:
    """One guardrail at one look: shares of bad requests with their intervals, and the verdict."""

    name: str
    new: tuple[float, float]
    old: tuple[float, float]
    allowed: tuple[float, float]
    """Below the first it is safe, above the second it is harm."""
    verdict: Verdict


@dataclass(frozen=True)
class Decision:
    """What to do now, and why in one sentence."""

    action: Action
    reason: str
    checks: tuple[Check, ...] = ()


def confidence_sequence(bad: int, n: int, alpha: float) -> tuple[float, float]:
    r"""An interval for a share that holds at all times at once.

    With probability 1 - alpha the true share is inside after *every* request, so one may look
    after each and stop at any time. It holds every p for which the mixture likelihood ratio

    .. math:: M_n(p) = \frac{B(\frac12 + s, \frac12 + n - s)}{B(\frac12, \frac12) p^s (1-p)^{n-s}}

    is below 1 / alpha. For the true p, :math:`M_n(p)` is a martingale with mean 1, and Ville's
    inequality bounds the chance that it ever reaches 1 / alpha by alpha.

    Parameters
    ----------
    bad, n
        Bad requests and all, 0 <= bad <= n.
    alpha
        In (0, 1).

    Returns
    -------
    (low, high)
        (0, 1) for n = 0.

    References
    ----------
    Robbins, "Statistical Methods Related to the Law of the Iterated Logarithm", Annals of
    Mathematical Statistics 41(5), 1970; Howard et al., "Time-uniform, nonparametric, nonasymptotic
    confidence sequences", Annals of Statistics 49(2), 2021.
    """
    require(0 <= bad <= n, "bad, n", (bad, n), "must satisfy 0 <= bad <= n")
    require(0 < alpha < 1, "alpha", alpha, "must be in (0, 1)")
    if n == 0:
        return 0.0, 1.0
    good = n - bad
    mixture = _log_beta(0.5 + bad, 0.5 + good) - _log_beta(0.5, 0.5)

    def inside(p: float) -> bool:
        likelihood = (bad * log(p) if bad else 0.0) + (good * log(1 - p) if good else 0.0)
        return mixture - likelihood < log(1 / alpha)

    def boundary(outside: float, within: float) -> float:
        for _ in range(60):
            middle = (outside + within) / 2
            if inside(middle):
                within = middle
            else:
                outside = middle
        return within

    share = bad / n
    # An end of [0, 1] that is not excluded cannot be reached by log(0): the share lies there.
    low = boundary(0.0, share) if bad else 0.0
    high = boundary(1.0, share) if good else 1.0
    return low, high


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def judge(new: tuple[float, float], low: float, high: float) -> Verdict:
    """``harm`` when the whole interval is above ``high``, ``safe`` when it is not above ``low``."""
    return "harm" if new[0] > high else "safe" if new[1] <= low else "undecided"


@exercise(
    "4.13",
    points=10,
    title="Go on, wait or go back",
    hint="Three checks of (bad, n): slow, errors, wrong. Harm in any sends the version back, and "
    "only all three safe may end the last step. Which checks look at the old version, and where?",
)
def decide(
    new: Window,
    old: Window,
    guardrails: Guardrails,
    *,
    samples: int,
    last: bool,
    steps: int = 1,
) -> Decision:
    """What to do after one look at the windows of a step.

    Each share gets ``confidence_sequence(bad, n, alpha / (4 * steps))``: in each step four
    intervals can mislead, one of p99, one of errors and both of accuracy.

    =========  ==================  ===============================  ==============================
    guardrail  bad of n            harm: ``new low`` is above       safe: ``new high`` is at most
    =========  ==================  ===============================  ==============================
    p99        slow of requests    max(1 %, ``old high``)           max(1 %, ``old low``)
    errors     errors of requests  max(error_rate, ``old high``)    max(error_rate, ``old low``)
    accuracy   wrong of labelled   ``old high`` + accuracy_margin   ``old low`` + accuracy_margin
    =========  ==================  ===============================  ==============================

    A stall of the machine hits both versions: that is no harm of the new one, and no proof of its
    safety either.

    Parameters
    ----------
    new, old
        Windows of the new version and of the one it shall replace, over the same time.
    samples
        Requests of the new version that this step asks for.
    last
        The new version gets all requests if this step is passed.
    steps
        Steps of the rollout.

    Returns
    -------
    Decision
        ``wait`` below ``least_samples``; else ``rollback`` as soon as a check says harm; else
        ``advance`` with at least ``samples`` requests and, on the last step, all checks safe; else
        ``wait``. ``checks`` are p99, errors and accuracy, in this order.
    """
    # BEGIN SOLUTION
    alpha = guardrails.alpha / (4 * steps)
    checks = []
    for name, bad, n, ceiling in (
        ("p99", "slow", "requests", P99_SHARE),
        ("errors", "errors", "requests", guardrails.error_rate),
        ("accuracy", "wrong", "labelled", None),
    ):
        share = confidence_sequence(getattr(new, bad), getattr(new, n), alpha)
        reference = confidence_sequence(getattr(old, bad), getattr(old, n), alpha)
        if ceiling is None:
            low = reference[0] + guardrails.accuracy_margin
            high = reference[1] + guardrails.accuracy_margin
        else:
            low, high = max(ceiling, reference[0]), max(ceiling, reference[1])
        checks.append(Check(name, share, reference, (low, high), judge(share, low, high)))
    found = tuple(checks)
    if new.requests < guardrails.least_samples:
        return Decision("wait", f"{new.requests} of {guardrails.least_samples} requests", found)
    harmful = [check for check in found if check.verdict == "harm"]
    if harmful:
        return Decision("rollback", explain(harmful[0], new, guardrails), found)
    if new.requests < samples:
        return Decision("wait", f"{new.requests} of {samples} requests", found)
    unsure = [check for check in found if check.verdict != "safe"]
    if last and unsure:
        return Decision("wait", explain(unsure[0], new, guardrails), found)
    return Decision("advance", f"{new.requests} requests and no harm shown", found)
    # END SOLUTION


def explain(check: Check, new: Window, guardrails: Guardrails) -> str:
    """A check in one sentence with its numbers."""
    low, high = check.new
    word = {"harm": "harm", "safe": "safe", "undecided": "not yet sure"}[check.verdict]
    what = {
        "p99": f"share above {guardrails.p99_ms:g} ms",
        "errors": "share of errors",
        "accuracy": "share of wrong answers",
    }[check.name]
    of = new.labelled if check.name == "accuracy" else new.requests
    limit = check.allowed[1] if check.verdict == "harm" else check.allowed[0]
    return f"{check.name}: {word}: {what} {low:.3f} to {high:.3f} (n = {of}), limit {limit:.3f}"
