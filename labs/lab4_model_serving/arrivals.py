"""When requests come: Poisson, bursts, a day, and what a log recorded.

A load test is a schedule and a server. The schedule decides how much queues: at the same mean rate
evenly spaced requests never meet, Poisson arrivals do, and real traffic is burstier still.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from common.exercises import exercise

Schedule = NDArray[np.float64]
"""Offsets [n] from the start (s), ascending."""

LOG_TIME = re.compile(r"\[(\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} [+-]\d{4})\]")
LOG_FORMAT = "%d/%b/%Y:%H:%M:%S %z"


@exercise(
    "4.1",
    points=5,
    title="Poisson arrivals",
    hint="Gaps between the arrivals of a Poisson process are exponential with mean 1 / rate. "
    "Draw enough gaps to pass the end, then cut.",
)
def poisson_schedule(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Arrival times of a Poisson process.

    Users do not coordinate, so requests come in bursts: the number in any second has mean and
    variance ``rate``, and gaps are exponential with mean ``1 / rate``. Evenly spaced requests
    never queue behind each other and flatter the server.

    Parameters
    ----------
    rate
        Mean arrivals per second.
    seconds
        Length of the schedule.
    seed
        The same seed gives the same schedule.

    Returns
    -------
    float64 array [n], n about ``rate * seconds``
        Offsets from the start (s), ascending, in [0, seconds).

    References
    ----------
    MLPerf Inference rules, Server scenario.
    """
    rng = np.random.default_rng(seed)
    mean = rate * seconds
    gaps = rng.exponential(1 / rate, size=int(mean + 10 * np.sqrt(mean) + 20))
    arrivals = np.cumsum(gaps)
    return arrivals[arrivals < seconds]


def constant_schedule(rate: float, seconds: float) -> Schedule:
    """Evenly spaced arrivals, as from a metronome: for comparison, no users come like that."""
    _check(rate, seconds)
    return np.arange(int(rate * seconds), dtype=np.float64) / rate


def phased_schedule(phases: Sequence[tuple[float, float]], seed: int) -> Schedule:
    """Poisson arrivals whose rate changes in steps.

    Parameters
    ----------
    phases
        (rate in requests/s, seconds) one after the other; a rate of 0 is a pause.
    """
    parts: list[Schedule] = []
    start = 0.0
    for number, (rate, seconds) in enumerate(phases):
        require(rate >= 0, "rate", rate, "must be >= 0")
        require(seconds > 0, "seconds", seconds, "must be > 0")
        if rate > 0:
            # The seed of a phase must not repeat that of a run with the next seed.
            phase_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            parts.append(start + poisson_schedule(rate, seconds, phase_seed))
        start += seconds
    return np.concatenate(parts) if parts else np.array([])


def mmpp_schedule(
    rates: Sequence[float], dwell: Sequence[float], seconds: float, seed: int
) -> Schedule:
    """Bursts: a Markov-modulated Poisson process.

    The source is in one state at a time, sends at that state's rate, stays for an exponential time
    with mean ``dwell[state]``, and then goes to any other state. Two states (quiet, busy) already
    give counts far more variable than Poisson.

    Parameters
    ----------
    rates, dwell
        Requests/s and mean seconds of a visit, by state; at least two states.

    References
    ----------
    Fischer and Meier-Hellstern, The Markov-modulated Poisson process (MMPP) cookbook, Performance
    Evaluation 18, 1993.
    """
    require(len(rates) >= 2, "rates", tuple(rates), "must have at least 2 states")
    require(len(rates) == len(dwell), "dwell", tuple(dwell), "must have one time for each rate")
    require(min(dwell) > 0, "dwell", tuple(dwell), "must be > 0")
    _check(max(rates), seconds)
    rng = np.random.default_rng(seed)
    state = int(rng.integers(len(rates)))
    phases: list[tuple[float, float]] = []
    left = seconds
    while left > 0:
        stay = min(left, float(rng.exponential(dwell[state])))
        if stay > 0:
            phases.append((rates[state], stay))
        left -= stay
        state = (state + int(rng.integers(1, len(rates)))) % len(rates)
    return phased_schedule(phases, seed)


def diurnal_schedule(
    lowest: float, highest: float, seconds: float, seed: int, *, days: float = 1.0
) -> Schedule:
    """A day in ``seconds / days``: the rate is a sine between ``lowest`` and ``highest``.

    Drawn by thinning (Lewis and Shedler 1979): Poisson arrivals at the highest rate, each kept with
    probability rate(t) / highest.
    """
    require(0 <= lowest <= highest, "lowest, highest", (lowest, highest), "must ascend from 0")
    _check(highest, seconds)
    arrivals = poisson_schedule(highest, seconds, seed)
    rate = lowest + (highest - lowest) * (1 - np.cos(2 * np.pi * days * arrivals / seconds)) / 2
    kept = np.random.default_rng([seed, 1]).random(len(arrivals)) * highest < rate
    return arrivals[kept]


def recorded_schedule(times: ArrayLike, *, speed: float = 1.0, seed: int = 0) -> Schedule:
    """Replay recorded arrivals.

    Parameters
    ----------
    times
        Timestamps [n] (s) of any origin, in any order: an access log is written when a request
        *ends*, so its lines are not sorted by anything else.
    speed
        2 replays twice as fast. Bursts stay bursts: every gap shrinks by the same factor, so the
        dispersion of the counts grows with the rate, which a Poisson schedule would not do.
    seed
        Of the fractions of a second where a log has whole seconds only: all arrivals of a second
        at once would be a burst that never was, so they are spread evenly at random in it.

    Raises
    ------
    InputError
        No timestamp, or one that is not finite.
    """
    require(speed > 0, "speed", speed, "must be > 0", "1 replays as recorded")
    recorded = np.sort(np.ravel(np.asarray(times, dtype=np.float64)))
    if len(recorded) == 0:
        raise InputError("no timestamps to replay")
    require(bool(np.isfinite(recorded).all()), "timestamps", "some", "must be finite")
    if np.array_equal(recorded, np.floor(recorded)):
        recorded = np.sort(recorded + np.random.default_rng(seed).random(len(recorded)))
    return (recorded - recorded[0]) / speed


def read_arrivals(path: Path) -> NDArray[np.float64]:
    """Timestamps (s since the epoch, [n]) of a file with one request a line.

    A line has a time in brackets as in the common log format (``[23/Nov/2026:10:00:00 +0000]``),
    or begins with seconds since the epoch (nginx's ``$msec``) or a time in ISO 8601.

    Raises
    ------
    InputError
        A line without a time, named by its number; empty lines and comments (#) are skipped.
    """
    found = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                try:
                    found.append(_timestamp(line))
                except ValueError as error:
                    raise InputError(
                        f"{path}:{number}: no time in {line.strip()[:80]!r}; a line must have "
                        "[day/Mon/year:h:m:s zone], or begin with epoch seconds or ISO 8601"
                    ) from error
    if not found:
        raise InputError(f"{path} has no requests")
    return np.array(found)


def dispersion(schedule: Schedule, window: float = 0.1) -> float:
    """Variance / mean of the counts in windows of ``window`` seconds.

    0 for a metronome, 1 for Poisson, more for bursts (Fano factor, index of dispersion). It is the
    first thing to compute of a log: it says whether a Poisson test stands for its traffic.
    """
    require(window > 0, "window", window, "must be > 0")
    windows = int(np.floor(float(schedule[-1]) / window)) if len(schedule) else 0
    if windows < 2:
        raise InputError(f"the schedule is shorter than two windows of {window:g} s")
    counts = np.bincount((schedule / window).astype(np.int64), minlength=windows)[:windows]
    return float(counts.var() / counts.mean())


def _timestamp(line: str) -> float:
    if match := LOG_TIME.search(line):
        return datetime.strptime(match[1], LOG_FORMAT).timestamp()
    first = line.split(maxsplit=1)[0].rstrip(",")
    try:
        return float(first)
    except ValueError:
        return datetime.fromisoformat(first).timestamp()


def _check(rate: float, seconds: float) -> None:
    require(rate > 0, "rate", rate, "must be > 0")
    require(seconds > 0, "seconds", seconds, "must be > 0")
