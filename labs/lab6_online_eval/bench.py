"""An experiment of ten million users, analysed twice: one run, one machine, one file.

``make bench-lab6``. Five metrics with CUPED (two sums with long tails, a count, a proportion and a
ratio), from a Parquet table of one row a user to effects, intervals and p-values: by this lab's
scan with DuckDB, and by tea-tasting on the table read into pandas. Each runs in a process of its
own, in turn, so that its peak memory is its own; both must give the same answers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common.errors import RunError, require
from common.runner import Claim, Run, main

ENOUGH_USERS = 10_000_000
GIB = 2**30
SIDES = {"lab": "one scan with DuckDB", "tea_tasting": "tea-tasting on the table in pandas"}

CLAIMS = (
    Claim(
        "L6B.seconds",
        "10 million users, five metrics with CUPED: seconds from file to p-values, the slowest "
        "repetition",
        metric="bench.lab_s_largest",
        op="<",
        target=10,
    ),
    Claim(
        "L6B.memory",
        "10 million users, five metrics with CUPED: peak memory of the process (GiB)",
        metric="bench.lab_peak_gib",
        op="<=",
        target=4,
    ),
    Claim(
        "L6B.speed",
        "times faster than tea-tasting through pandas on the same file, in the worst of the "
        "repetitions",
        metric="bench.speed_ratio_smallest",
        op=">=",
        target=10,
    ),
    Claim(
        "L6B.agreement",
        "largest difference from tea-tasting's effects (relative to the interval's width), "
        "interval ends (likewise) and p-values",
        metric="bench.largest_difference",
        op="<=",
        target=1e-9,
    ),
)


@dataclass(frozen=True)
class Bench:
    """How many users, and how often."""

    users: int = ENOUGH_USERS
    """Rows of the unit table."""
    repetitions: int = 3
    """Timings of each side, taken in turn, each in a new process."""
    cores: int = 2
    """Cores that each side may use."""

    def __post_init__(self) -> None:
        require(self.users >= 1000, "users", self.users, "must be >= 1000")
        require(self.repetitions >= 1, "repetitions", self.repetitions, "must be >= 1", "try 3")
        require(self.cores >= 1, "cores", self.cores, "must be >= 1", "try 2")


SCALES = {
    "smoke": Bench(users=50_000, repetitions=1),
    "standard": Bench(),
    "full": Bench(repetitions=7),
}


def story(run: Run, config: Bench) -> None:
    """Write the table, time both sides in turn, compare their answers."""
    table = run.work / "units.parquet"
    with run.stage("Write the unit table", key="write"):
        call("write", str(table), str(config.users), str(run.seed))
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with run.stage("Time both sides in turn", key="timing"):
        for _ in run.progress(range(config.repetitions), "repetitions"):
            for side in SIDES:
                table.read_bytes()  # in the page cache, for both
                found[side].append(json.loads(call(side, str(table), str(config.cores))))
    with run.stage("Compare", key="compare"):
        report(run, config, found, table)


def call(*arguments: str) -> str:
    """Run `bench_sides` in a process of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "labs.lab6_online_eval.bench_sides", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunError(f"{arguments[0]} ended with status {done.returncode}: {done.stderr[-1500:]}")
    return done.stdout


def report(run: Run, config: Bench, found: dict[str, list[dict[str, Any]]], table: Path) -> None:
    """Metrics, the table, and what this scale cannot show."""
    from labs.lab6_online_eval.figures_analysis import draw_bench

    n = config.repetitions
    about = f"{config.users:,} users, five metrics with CUPED, {config.cores} cores at most"
    run.metric("bench.users", config.users, unit="count")
    size = table.stat().st_size / 1e6
    run.metric("bench.file_mb", size, unit="MB", how="the Parquet file that both sides read")
    for side, what in SIDES.items():
        seconds = [each["seconds"] for each in found[side]]
        how = f"{what}; {about}; from the file to p-values, imports excluded"
        run.metric(f"bench.{side}_s", median(seconds), unit="s", n=n, how=how + "; median")
        run.metric(f"bench.{side}_s_largest", max(seconds), unit="s", n=n, how=how + "; slowest")
        cpu = median(each["cpu_s"] for each in found[side])
        run.metric(f"bench.{side}_cpu_s", cpu, unit="s", n=n, how=how + "; CPU time of all threads")
        peak = max(each["peak_bytes"] for each in found[side]) / GIB
        how = f"{what}; {about}; most that the process had resident, libraries included"
        run.metric(f"bench.{side}_peak_gib", peak, unit="GiB", n=n, how=how)
    pairs = zip(found["lab"], found["tea_tasting"], strict=True)
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs]
    for word, value in (
        ("smallest", min(ratios)),
        ("median", median(ratios)),
        ("largest", max(ratios)),
    ):
        run.metric(
            f"bench.speed_ratio_{word}", value, unit="ratio", n=n,
            how="seconds of tea-tasting over those of the scan, repetition by repetition",
        )  # fmt: skip
    worst = max(
        largest_difference(ours["answers"], theirs["answers"])
        for ours, theirs in zip(found["lab"], found["tea_tasting"], strict=True)
    )
    run.metric(
        "bench.largest_difference", worst, unit="ratio", n=n,
        how="of effects and interval ends as shares of the interval's width, and of p-values",
    )  # fmt: skip
    print(text_table(found))
    run.figure(
        "bench",
        draw_bench({SIDES[side]: found[side] for side in SIDES}, config.users),
        caption=f"Seconds and peak memory of both sides; {about}.",
    )
    if config.users < ENOUGH_USERS:
        reason = f"{config.users:,} users; --scale standard analyses {ENOUGH_USERS:,}"
        for claim in CLAIMS:
            if claim.id != "L6B.agreement":
                run.unmeasured(claim.id, reason)


def largest_difference(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> float:
    """Of effects and interval ends as shares of the interval's width, and of p-values.

    ``ours`` and ``theirs`` are metric to effect, low end, high end, p.
    """
    worst = 0.0
    for name, (effect, low, high, p) in theirs.items():
        mine = ours[name]
        width = high - low
        apart = [abs(a - b) / width for a, b in zip(mine[:3], (effect, low, high), strict=True)]
        worst = max(worst, *apart, abs(mine[3] - p))
    return worst


def text_table(found: dict[str, list[dict[str, Any]]]) -> str:
    """One line a side."""
    lines = [f"{'side':36} {'seconds':>9} {'CPU s':>8} {'peak GiB':>9}"]
    for side, what in SIDES.items():
        seconds, cpu = (median(each[key] for each in found[side]) for key in ("seconds", "cpu_s"))
        peak = max(each["peak_bytes"] for each in found[side]) / GIB
        lines.append(f"{what:36} {seconds:9.2f} {cpu:8.2f} {peak:9.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(
        "lab6_online_eval_bench",
        SCALES,
        story,
        title="Lab 6, benchmark: ten million users against tea-tasting in pandas",
        claims=CLAIMS,
        program="labs.lab6_online_eval.bench",
    )
