"""A small log of a made-up experiment, for the tests of what reads logs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from labs.lab6_online_eval.experiment import Arm, Experiment, Kind, Looks, Metric, Role

START = datetime(2026, 3, 2, tzinfo=UTC)
METRICS = (
    Metric("clicks", Kind.MEAN, Role.SUCCESS, "click"),
    Metric("clicks_per_session", Kind.RATIO, Role.SUCCESS, "click", denominator="session"),
    Metric("clickers", Kind.PROPORTION, Role.INFORMATION, "click"),
    Metric(
        "p90_latency", Kind.QUANTILE, Role.GUARDRAIL, "latency", quantile=0.9,
        higher_is_better=False, margin=0.1, cuped=False,
    ),
    Metric(
        "hides", Kind.MEAN, Role.GUARDRAIL, "hide", higher_is_better=False, margin=0.3,
        cuped=False,
    ),
)  # fmt: skip


def experiment(
    *,
    looks: Looks = Looks.ONCE,
    n_looks: int = 1,
    arms: tuple[str, ...] = ("control", "treatment"),
    metrics: tuple[Metric, ...] = METRICS,
) -> Experiment:
    return Experiment(
        name="new-list",
        hypothesis="A better list gets more clicks.",
        owner="search",
        arms=tuple(Arm(name, 1 / len(arms)) for name in arms),
        metrics=metrics,
        start=START,
        days=10,
        looks=looks,
        n_looks=n_looks,
        before_days=10,
    )


@dataclass(frozen=True)
class Truth:
    """What a log was made of, one row a unit: the plain way to compute every metric."""

    arm: np.ndarray
    clicks: np.ndarray
    before: np.ndarray


def write_log(
    folder: Path,
    *,
    seed: int = 0,
    sizes: tuple[int, ...] = (700, 700),
    lift: float = 0.5,
    slower: float = 1.0,
    sessions: int = 3,
    past: bool = True,
) -> Truth:
    """Every unit is exposed on a day of its own and has ``sessions`` sessions from then on.

    ``lift`` is what each treatment adds to 2 clicks a unit, and ``slower`` what it multiplies
    latency by. With ``past`` every unit has had one to three sessions before.
    """
    import pyarrow as pa

    from labs.lab6_online_eval.event_log import EVENTS, EXPOSURES, event_schema, exposure_schema
    from labs.lab6_online_eval.exposure_log import LogWriter

    names = ("control", "treatment", "third")
    rng = np.random.default_rng(seed)
    arm = np.repeat(np.arange(len(sizes)), sizes)
    n = len(arm)
    ids = np.char.add("u", np.arange(n).astype("U6"))
    exposed = rng.uniform(0, 8, n)
    taste = rng.gamma(2.0, 1.0, n)
    clicks = rng.poisson(taste + lift * (arm > 0))
    before = rng.poisson(taste)

    def times(days: np.ndarray) -> pa.Array:
        at = int(START.timestamp() * 1e6) + (days * 86_400e6).astype(np.int64)
        return pa.array(at).cast(pa.timestamp("us", tz="UTC"))

    unit = np.repeat(np.arange(n), sessions)
    day = exposed[unit] + rng.uniform(0, 1.9, n * sessions) * (np.arange(len(unit)) % sessions > 0)
    latency = rng.lognormal(4.0, 0.3, len(unit)) * np.where(arm[unit] > 0, slower, 1.0)
    parts = [
        ("session", unit, np.ones(len(unit)), day),
        ("latency", unit, latency, day),
        ("hide", unit, rng.poisson(0.3, len(unit)).astype(float), day),
        ("click", np.arange(n), clicks.astype(float), exposed + 0.5),
        ("click", np.arange(n), before.astype(float), exposed - 9.0),
        ("session", np.arange(n), rng.integers(1, 4, n) * float(past), exposed - 9.0),
    ]
    with LogWriter(folder, EXPOSURES) as log:
        log.add(
            pa.table(
                {
                    "unit_id": ids[unit],
                    "experiment": np.full(len(unit), "new-list"),
                    "arm": np.array(names)[arm[unit]],
                    "at": times(day),
                }
            ).cast(exposure_schema())
        )
    with LogWriter(folder, EVENTS) as log:
        for number, (name, who, value, at) in enumerate(parts):
            keep = value > 0
            log.add(
                pa.table(
                    {
                        "event_id": np.char.add(f"{number}-", np.arange(len(who)).astype("U7")),
                        "unit_id": ids[who],
                        "name": np.full(len(who), name),
                        "value": value,
                        "at": times(at),
                    }
                )
                .filter(pa.array(keep))
                .cast(event_schema())
            )
    return Truth(arm, clicks.astype(float), before.astype(float))
