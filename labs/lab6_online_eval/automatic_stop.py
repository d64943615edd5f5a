"""Automatic stop: end an experiment during the night, when it harms, and only then.

A treatment with a slow model, a failing call or lists that people hide does its damage from the
first hour. A program looks every hour and stops it as soon as a loss beyond the margin is certain.
168 looks a week at p < .05 would stop a good share of healthy experiments as well, so the test
is an always-valid one-sided bound (`confidence_sequences`).

Here alpha *is* divided over the guardrails: any one of them stops the experiment, so each is
another chance of a false stop. (To ship, all must pass; there it is not divided, see `guardrails`.)

Latency is watched as the share of sessions slower than a limit. A share adds up over hours and
users; a percentile does not. Rare events are the other difficulty: the normal law is no good for
two errors, so a guardrail is silent until it has counted enough of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab6_online_eval.confidence_sequences import one_sided_always_valid_p
from labs.lab6_online_eval.world import Sessions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SLOW_MS = 150.0
LEAST_EVENTS = 20
TUNED_FOR = 2_000.0


@dataclass(frozen=True)
class Watched:
    """A guardrail that is watched: a count a session, of which fewer is better.

    ``count(sessions)`` is float [n]; ``margin`` the relative rise that would be accepted.
    """

    name: str
    count: Callable[[Sessions], Floats]
    margin: float

    def __post_init__(self) -> None:
        require(self.margin > 0, f"margin of {self.name}", self.margin, "must be > 0")


WATCHED = (
    Watched("slow_sessions", lambda sessions: (sessions.latency_ms > SLOW_MS).astype(float), 0.25),
    Watched("errors", lambda sessions: sessions.error.astype(float), 0.5),
    Watched("hides", lambda sessions: sessions.hides.astype(float), 0.25),
)


@dataclass(frozen=True)
class Track:
    """One guardrail at every look: float [looks] each.

    ``excess`` is treatment's rate minus ``(1 + margin)`` times the control's, ``se`` its standard
    error, ``p`` the smallest always-valid p-value so far of "the excess is at most 0". ``counted``
    bool [looks]: whether `LEAST_EVENTS` had been seen by then; before, ``p`` is 1.
    """

    name: str
    control_rate: Floats
    treatment_rate: Floats
    excess: Floats
    se: Floats
    p: Floats
    counted: NDArray[np.bool_]


@dataclass(frozen=True)
class StopReport:
    """What the watch saw: when it stopped (hours since the start; None: never) and for what."""

    hour: float | None
    guardrail: str | None
    alpha_each: float
    hours: Floats
    tracks: tuple[Track, ...]

    @property
    def stopped(self) -> bool:
        return self.hour is not None


def watch(
    sessions: Sessions,
    hours: Floats,
    *,
    watched: tuple[Watched, ...] = WATCHED,
    alpha: float = 0.05,
    tuned_for: float = TUNED_FOR,
) -> StopReport:
    """Look at the guardrails at every given hour, and stop at the first certain harm.

    Parameters
    ----------
    sessions
        In time order; arm 0 is the control, arm 1 the treatment.
    hours
        Of the looks, float [looks], increasing, in hours since the start.
    alpha
        Probability that an experiment at its margins is *ever* stopped; each guardrail gets
        ``alpha / len(watched)``.
    tuned_for
        Sessions at which the bound is to be narrow: small, as early harm is what matters.

    Raises
    ------
    InputError
        No sessions in an arm, an arm that is neither 0 nor 1, a unit in both arms, sessions that
        are not in time order, hours that do not increase, values that are not finite.
    """
    require(len(watched) >= 1, "watched", len(watched), "must name at least one guardrail")
    increasing = len(hours) >= 1 and bool((np.diff(hours) > 0).all())
    require(increasing, "hours", len(hours), "must be at least one, increasing")
    require(0 < alpha < 0.5, "alpha", alpha, "must be in (0, 0.5)", "try 0.05")
    _check_sessions(sessions)
    each = alpha / len(watched)
    ends = np.searchsorted(sessions.day, np.asarray(hours) / 24, side="right")
    arms = [Arm.of(sessions, number, ends) for number in (0, 1)]
    tracks = tuple(_track(guardrail, sessions, arms, each, tuned_for) for guardrail in watched)
    p = np.array([track.p for track in tracks])
    harmed = (p < each).any(axis=0)
    if not harmed.any():
        return StopReport(None, None, each, np.asarray(hours), tracks)
    look = int(harmed.argmax())
    name = tracks[int(p[:, look].argmin())].name
    return StopReport(float(hours[look]), name, each, np.asarray(hours), tracks)


def _check_sessions(sessions: Sessions) -> None:
    """Raise `InputError` unless a watch of these can be believed: its silence is read as health."""
    treated, control = sessions.arm == 1, sessions.arm == 0
    strange = int(np.count_nonzero(~(treated | control)))
    require(strange == 0, "sessions of an arm other than 0 and 1", strange, "must be 0")
    least = min(int(control.sum()), int(treated.sum()))
    require(least > 0, "sessions of an arm", least, "must be above 0 in both arms")
    both = len(np.intersect1d(sessions.unit[control], sessions.unit[treated]))
    require(both == 0, "units in both arms", both, "must be 0", "leave them out of both")
    ordered = bool(np.isfinite(sessions.day).all() and (np.diff(sessions.day) >= 0).all())
    require(ordered, "sessions in time order", ordered, "must be true", "sort them by day")


@dataclass(frozen=True)
class Arm:
    """One arm's sessions in time order, arranged so that sums over users are running sums.

    ``rows`` int [m]: its sessions; ``by_unit`` int [m]: their order by unit and time; ``first``
    bool [m]: first of a unit, in that order; ``ends`` int [looks]: how many had come by each look.
    """

    rows: Ints
    by_unit: Ints
    first: NDArray[np.bool_]
    ends: Ints

    @classmethod
    def of(cls, sessions: Sessions, arm: int, ends: Ints) -> Arm:
        rows = np.flatnonzero(sessions.arm == arm)
        unit = sessions.unit[rows]
        by_unit = np.argsort(unit, kind="stable")
        ordered = unit[by_unit]
        first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        return cls(rows, by_unit, first, np.searchsorted(rows, ends, side="left"))

    def rates(self, counts: Floats) -> tuple[Floats, Floats, Floats]:
        """Events, rate a session and its variance at every look, users as clusters: [looks] each.

            var = sum_u (a_u - R b_u)^2 / (sum_u b_u)^2,    R = sum_u a_u / sum_u b_u

        with a_u events and b_u sessions of user u *by that look*. The three sums of products are
        kept running: a session that adds (da, 1) to (a, b) adds ``2 a da + da^2`` to the sum of
        a^2, ``a + b da + da`` to that of a b, and ``2 b + 1`` to that of b^2.
        """
        da = counts[self.rows]
        a, b = self._before(da), self._before(np.ones_like(da))
        looks = [
            np.concatenate([[0.0], np.cumsum(step)])[self.ends]
            for step in (da, 2 * a * da + da**2, a + b * da + da, 2 * b + 1)
        ]
        events, aa, ab, bb = looks
        n = np.maximum(self.ends, 1).astype(float)
        rate = events / n
        variance = (aa - 2 * rate * ab + rate**2 * bb) / n**2
        return events, rate, np.maximum(variance, 0.0)

    def _before(self, step: Floats) -> Floats:
        """What each session's user had before it, in time order."""
        ordered = step[self.by_unit]
        running = np.cumsum(ordered) - ordered
        start = np.maximum.accumulate(np.where(self.first, np.arange(len(step)), 0))
        before = np.empty_like(running)
        before[self.by_unit] = running - running[start]
        return before


def _track(
    guardrail: Watched, sessions: Sessions, arms: list[Arm], alpha: float, tuned_for: float
) -> Track:
    counts = guardrail.count(sessions)
    bad = int(np.count_nonzero(~(np.isfinite(counts) & (counts >= 0))))
    require(bad == 0, f"values of {guardrail.name} that are not counts", bad, "must be 0")
    factor = 1 + guardrail.margin
    sizes = [np.maximum(arm.ends, 1).astype(float) for arm in arms]
    (events, rate, variance), (events_t, rate_t, variance_t) = [arm.rates(counts) for arm in arms]
    # Under harm of exactly the margin both arms tell of one rate; with few events an arm's own
    # variance is too small by chance, so it is at least a Poisson count's at that common rate.
    common = (events + events_t) / (sizes[0] + factor * sizes[1])
    least, least_t = common / sizes[0], factor * common / sizes[1]
    se2 = np.maximum(variance_t, least_t) + factor**2 * np.maximum(variance, least)
    excess = rate_t - factor * rate
    usable = (events + events_t >= LEAST_EVENTS) & (se2 > 0)
    usable &= (arms[0].ends > 0) & (arms[1].ends > 0)
    p = np.ones(len(excess))
    p[usable] = one_sided_always_valid_p(
        excess[usable],
        np.sqrt(se2[usable]),
        (sizes[0] + sizes[1])[usable],
        tuned_for=tuned_for,
        alpha=alpha,
    )
    smallest = np.asarray(np.minimum.accumulate(p))
    return Track(guardrail.name, rate, rate_t, excess, np.sqrt(se2), smallest, usable)
