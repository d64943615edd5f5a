"""What the alerts do in simulated incidents, and the drift null on simulated scores.

Requests and scores are simulated: the truth is known, nothing depends on the machine, and a year
of quiet nights takes a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capstone.alerts import BUDGET, HEALTHY_SHARE, LEAST_REQUESTS, budget_burns
from capstone.drift import NullStudy, study_null
from common.errors import require
from labs.lab4_model_serving.burn_rate import FAST, SLOW, WORKBOOK, BurnAlert, incidents

Floats = NDArray[np.float64]
DAY, YEAR = 24 * 60, 365 * 24 * 60
NIGHTLY = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
"""Requests an hour of the services whose year is simulated."""
OUTAGE_RATES = (0.5, 1.0, 5.0, 100.0, 6000.0)
"""Requests a minute of the services that fail completely."""


def in_window(counts: Floats, minutes: int) -> Floats:
    """Sums over the last ``minutes`` at the end of each minute; arrays [minutes]."""
    grown = np.concatenate([[0.0], np.cumsum(counts)])
    starts = np.maximum(0, np.arange(1, len(grown)) - minutes)
    return np.asarray(grown[1:] - grown[starts])


def firing(
    bad: Floats, total: Floats, rule: BurnAlert, *, guarded: bool = True
) -> NDArray[np.bool_]:
    """Whether an alert of :mod:`capstone.alerts` fires at the end of each minute [minutes].

    Parameters
    ----------
    guarded
        Without it the least traffic is not asked for, as in the workbook's table.
    """
    return budget_burns(
        in_window(bad, rule.long_min), in_window(total, rule.long_min),
        in_window(bad, rule.short_min), in_window(total, rule.short_min),
        threshold=rule.threshold, budget=BUDGET,
        least=LEAST_REQUESTS[rule.name] if guarded else 0,
    )  # fmt: skip


@dataclass(frozen=True)
class Detection:
    """What an alert did about a simulated incident; minutes, None when it did not fire.

    ``ended_after`` is from the end of the incident to the last minute in which it fires.
    """

    incident: str
    alert: str
    bad_share: float
    fired_after: int | None
    ended_after: int | None


@dataclass(frozen=True)
class MonitoringStudy:
    """Everything the monitoring stage shows.

    Attributes
    ----------
    detections
        Every burn-rate alert against every incident, at 6,000 requests a minute.
    nightly
        Requests an hour.
    pages_unguarded, pages_guarded
        False fast pages of a healthy year, by ``nightly``; [rates].
    outage_rates
        Requests a minute.
    outage_minutes
        Minutes until the guarded fast page sees a total outage, by ``outage_rates``.
    null
        The PSI without and with a change, by sample size.
    """

    detections: tuple[Detection, ...]
    nightly: tuple[float, ...]
    pages_unguarded: tuple[int, ...]
    pages_guarded: tuple[int, ...]
    outage_rates: tuple[float, ...]
    outage_minutes: tuple[int | None, ...]
    null: NullStudy

    def fired_after(self, incident: str, alert: str) -> int | None:
        """Minutes until an alert fired in an incident."""
        (found,) = [d for d in self.detections if (d.incident, d.alert) == (incident, alert)]
        return found.fired_after


def study_monitoring(
    seed: int, *, nightly: Sequence[float] = NIGHTLY, repeats: int = 2000
) -> MonitoringStudy:
    """Simulate incidents, quiet years and unchanged scores.

    Parameters
    ----------
    nightly
        Requests an hour of each simulated year.
    repeats
        Simulated pairs of samples at each size.
    """
    require(all(rate > 0 for rate in nightly), "nightly", nightly, "must be > 0 requests an hour")
    rng = np.random.default_rng(seed)
    detections = []
    for each in incidents(seed=seed):
        inside = slice(each.start, each.end)
        share = float(each.bad[inside].sum() / max(1.0, each.total[inside].sum()))
        for rule in WORKBOOK:
            minutes = np.flatnonzero(firing(each.bad, each.total, rule))
            first, last = (int(minutes[0]), int(minutes[-1])) if len(minutes) else (None, None)
            detections.append(
                Detection(
                    each.name,
                    rule.name,
                    share,
                    None if first is None else first - each.start + 1,
                    None if last is None else last - each.end + 1,
                )
            )
    pages = [_pages_of_a_year(rate / 60, rng) for rate in nightly]
    return MonitoringStudy(
        tuple(detections),
        tuple(nightly),
        tuple(without for without, _ in pages),
        tuple(guarded for _, guarded in pages),
        OUTAGE_RATES,
        tuple(_outage(rate, rng) for rate in OUTAGE_RATES),
        study_null(repeats=repeats, seed=seed),
    )


def _pages_of_a_year(per_minute: float, rng: np.random.Generator) -> tuple[int, int]:
    """Fast pages of a healthy year, without and with the guard."""
    total = rng.poisson(per_minute, YEAR)
    bad = rng.binomial(total, HEALTHY_SHARE).astype(np.float64)
    counts = []
    for guarded in (False, True):
        fires = firing(bad, total.astype(np.float64), FAST, guarded=guarded)
        counts.append(int(np.count_nonzero(fires[1:] & ~fires[:-1]) + fires[0]))
    return counts[0], counts[1]


def _outage(per_minute: float, rng: np.random.Generator) -> int | None:
    """Minutes until the guarded fast page sees that everything fails."""
    total = rng.poisson(per_minute, 2 * DAY).astype(np.float64)
    bad = np.where(np.arange(2 * DAY) >= DAY, total, 0.0)
    minutes = np.flatnonzero(firing(bad, total, FAST)[DAY:])
    return int(minutes[0]) + 1 if len(minutes) else None


def metrics(found: MonitoringStudy) -> list[tuple[str, float, str]]:
    """(name, value, unit) of what the stage records."""
    outage, leak, blip = "30 minutes at 50 % bad", "8 hours at 8 % bad", "2 minutes at 60 % bad"
    null = found.null
    quietest = found.nightly.index(2.0) if 2.0 in found.nightly else 0
    small, large = 0, null.sizes.index(10_000)
    quiet_outage = found.outage_minutes[1]
    return [
        *(
            (name, float(minutes), "minutes")
            for name, minutes in (
                ("outage_minutes_to_page", found.fired_after(outage, FAST.name)),
                ("leak_minutes_to_page", found.fired_after(leak, SLOW.name)),
                ("quiet_outage_minutes_to_page", quiet_outage),
            )
            if minutes is not None
        ),
        ("blip_alerts", float(_alerts(found, blip)), "alerts"),
        ("ordinary_day_alerts", float(_alerts(found, "nothing happens")), "alerts"),
        ("false_pages_unguarded", float(found.pages_unguarded[quietest]), "pages a year"),
        ("false_pages_guarded", float(max(found.pages_guarded)), "pages a year"),
        ("psi_cutoff_false_alarms", float(null.false_by_cutoff[small]), "ratio"),
        ("psi_null_false_alarms", float(null.false_by_null.max()), "ratio"),
        ("psi_cutoff_power", float(null.power_by_cutoff[large]), "ratio"),
        ("psi_null_power", float(null.power_by_null[large]), "ratio"),
    ]


def _alerts(found: MonitoringStudy, incident: str) -> int:
    return sum(d.incident == incident and d.fired_after is not None for d in found.detections)
