"""How many replicas? The control law of Kubernetes' HPA, as a pure function.

An autoscaler is a feedback loop: measure, divide by a target, round up, wait. The division is
easy. What makes it usable is the waiting: load is noisy, a new replica takes seconds to minutes
until it helps, and a law without memory answers every wiggle with a start and a stop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from common.errors import require
from common.exercises import exercise


@dataclass(frozen=True)
class Policy:
    """What is aimed at, and how fast the number of replicas may move.

    The defaults of the windows and rates are those of ``autoscaling/v2``.
    """

    target: float
    """Signal per replica, such as requests waiting or in flight."""
    min_replicas: int = 1
    max_replicas: int = 10
    tolerance: float = 0.1
    """A signal within this share of the target changes nothing."""
    up_window_s: float = 0.0
    """Scale up to the least of the recommendations of this window."""
    down_window_s: float = 300.0
    """Scale down to the largest of the recommendations of this window."""
    up_pods: int = 4
    up_percent: float = 100.0
    """Replicas added in a period: the larger of ``up_pods`` and ``up_percent`` of those at its
    start."""
    down_percent: float = 100.0
    """Share of the replicas at a period's start that may go during it."""
    period_s: float = 15.0
    cooldown_s: float = 0.0
    """No change for this long after a change, in either direction."""

    def __post_init__(self) -> None:
        require(
            self.target > 0 and math.isfinite(self.target), "target", self.target, "must be > 0"
        )
        require(
            self.min_replicas >= 1,
            "min_replicas",
            self.min_replicas,
            "must be >= 1",
            "zero replicas have no signal: scaling to zero needs one from outside (KEDA, Knative)",
        )
        require(
            self.max_replicas >= self.min_replicas,
            "max_replicas",
            self.max_replicas,
            f"must be >= min_replicas = {self.min_replicas}",
        )
        require(0 <= self.tolerance < 1, "tolerance", self.tolerance, "must be in [0, 1)")
        for name in ("up_window_s", "down_window_s", "period_s", "cooldown_s"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must be >= 0")
        require(self.up_pods >= 1, "up_pods", self.up_pods, "must be >= 1")
        require(self.up_percent >= 0, "up_percent", self.up_percent, "must be >= 0")
        require(
            0 < self.down_percent <= 100, "down_percent", self.down_percent, "must be in (0, 100]"
        )


@dataclass(frozen=True)
class Signal:
    """One reading: the mean over all replicas at ``time_s``; None when there was none."""

    time_s: float
    value: float | None


@dataclass(frozen=True)
class State:
    """What the law remembers between readings.

    ``recommendations`` and ``changes`` are (time in s, replicas) and (time in s, difference), the
    oldest first.
    """

    replicas: int
    recommendations: tuple[tuple[float, int], ...] = ()
    changes: tuple[tuple[float, int], ...] = ()

    @classmethod
    def start(cls, replicas: int, time_s: float = 0.0) -> State:
        """A controller that finds ``replicas`` running, and takes that for its first advice."""
        return cls(replicas, ((time_s, replicas),))


@dataclass(frozen=True)
class Decision:
    """``replicas`` to run now, the ``state`` for the next reading, and why."""

    replicas: int
    reason: str
    state: State = field(repr=False)


@exercise(
    "4.14",
    points=10,
    title="The law of an autoscaler, with hysteresis",
    hint="Four steps: no reading, hold; the ratio with its tolerance, rounded up; the windows: up "
    "only to the least of the recent advice, down only to the largest; then the limits. What is "
    "remembered is the advice before the windows, not what came out of them.",
)
def desired_replicas(state: State, signal: Signal, policy: Policy) -> Decision:
    r"""The replicas to run, from the mean signal of those that run now.

    With current replicas ``n``, mean signal ``v`` and target ``t``:

    1. No reading (``v`` is None): hold ``n`` and remember nothing.
    2. Advice: ``n`` when ``|v / t - 1| <= tolerance``, else ``ceil(n v / t)``, and between
       ``min_replicas`` and ``max_replicas``. It is remembered with its time.
    3. Stabilisation: with ``low`` the least advice of the last ``up_window_s`` and ``high`` the
       largest of the last ``down_window_s`` (this reading's included, in both): ``low`` when
       ``n < low``, ``high`` when ``n > high``, else ``n``.
    4. Cooldown and rates: :func:`limited`.

    Parameters
    ----------
    state
        Of the last decision (``decision.state``), or :meth:`State.start`.
    signal
        ``value`` is the mean over all ``state.replicas``: when some are still starting they count
        as zero, or a slow start would be answered with ever more replicas.

    Returns
    -------
    Decision
        Its ``state`` is made by :func:`remember`.

    References
    ----------
    Kubernetes, *Horizontal Pod Autoscaling*, sections "Algorithm details" and "Stabilization
    window"; there a missing reading of *one* pod is replaced by a careful guess.
    """
    n = state.replicas
    if signal.value is None:
        return Decision(n, "hold: no reading", state)
    ratio = signal.value / policy.target
    advice = n if abs(ratio - 1) <= policy.tolerance + 1e-12 else ceil(n * ratio)
    advice = min(max(advice, policy.min_replicas), policy.max_replicas)
    recent = [*state.recommendations, (signal.time_s, advice)]
    low = min(a for t, a in recent if t >= signal.time_s - policy.up_window_s)
    high = max(a for t, a in recent if t >= signal.time_s - policy.down_window_s)
    wanted = low if n < low else high if n > high else n
    replicas, reason = limited(wanted, state, signal.time_s, policy)
    if wanted == n and advice != n:
        reason = f"hold: {advice} advised, the window keeps {n}"
    return Decision(replicas, reason, remember(state, signal.time_s, advice, replicas, policy))


def ceil(x: float) -> int:
    """``math.ceil`` that reads 7.000000000000001 as 7: 0.7 / 0.1 must not cost a replica."""
    return math.ceil(x - 1e-9 * max(1.0, abs(x)))


def limited(wanted: int, state: State, time_s: float, policy: Policy) -> tuple[int, str]:
    """Bring ``wanted`` within cooldown and rates; the replicas and the reason."""
    n = state.replicas
    if wanted == n:
        return n, "hold: at max_replicas" if n == policy.max_replicas else "hold: on target"
    if state.changes and time_s - state.changes[-1][0] < policy.cooldown_s:
        return n, f"hold: cooldown of {policy.cooldown_s:g} s"
    recent = [d for t, d in state.changes if t > time_s - policy.period_s]
    if wanted > n:
        before = n - sum(d for d in recent if d > 0)
        most = before + max(policy.up_pods, ceil(before * policy.up_percent / 100))
        replicas = max(n, min(wanted, most))
    else:
        before = n - sum(d for d in recent if d < 0)
        least = before - int(before * policy.down_percent / 100 + 1e-9)
        # A share of few replicas is less than one, which would never let any go.
        replicas = min(n, max(wanted, min(least, before - 1), policy.min_replicas))
    if replicas == n:
        return n, f"hold: {wanted} wanted, the rate allows no more in {policy.period_s:g} s"
    cut = "" if replicas == wanted else f", {wanted} wanted, limited by the rate"
    return replicas, f"{'up' if replicas > n else 'down'} from {n}{cut}"


def remember(state: State, time_s: float, advice: int, replicas: int, policy: Policy) -> State:
    """The state after a decision; what no window or period can ask for again is dropped."""
    kept = time_s - max(policy.up_window_s, policy.down_window_s)
    recommendations = (*(r for r in state.recommendations if r[0] >= kept), (time_s, advice))
    kept = time_s - max(policy.period_s, policy.cooldown_s)
    changes = tuple(change for change in state.changes if change[0] >= kept)
    if replicas != state.replicas:
        changes = (*changes, (time_s, replicas - state.replicas))
    return State(replicas, recommendations, changes)


def without_hysteresis(policy: Policy) -> Policy:
    """The same target without memory: no tolerance, windows, cooldown or rate limits."""
    return replace(
        policy,
        tolerance=0.0,
        up_window_s=0.0,
        down_window_s=0.0,
        cooldown_s=0.0,
        up_pods=policy.max_replicas,
        down_percent=100.0,
    )
