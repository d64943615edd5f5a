"""One side of the benchmark, in a process of its own: ``bench_sides SIDE TABLE CORES``.

Each side reads the same Parquet file and answers with the same five comparisons. The clock runs
from the file to the last p-value, imports excluded; peak memory is the whole process's.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.errors import InputError
from labs.lab6_online_eval.sufficient_statistics import Columns, compare_statistics, scan

METRICS = {
    "watch_minutes": Columns("watch_minutes", covariate="watch_minutes_before"),
    "revenue": Columns("revenue", covariate="revenue_before"),
    "sessions": Columns("sessions", covariate="sessions_before"),
    "active": Columns("active", covariate="active_before"),
    "click_rate": Columns("clicks", "sessions", "clicks_before", "sessions_before"),
}
"""Two sums with long tails, a count, a proportion, and a ratio: each with its past."""
CHUNK = 500_000

Answers = dict[str, tuple[float, ...]]
"""Metric to effect, the ends of its 95 % interval, and p."""


def write_users(path: Path, users: int, seed: int) -> None:
    """A unit table of so many users, written 500,000 at a time; the treatment does a little."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    for start in range(0, users, CHUNK):
        n = min(CHUNK, users - start)
        rng = np.random.default_rng([seed, start])
        arm = (rng.random(n) < 0.5).astype(np.int8)
        activity = rng.gamma(1.5, 1.0, n)
        visits, visits_before = rng.poisson(activity * 4), rng.poisson(activity * 4)
        minutes = rng.gamma(2.0, 6.0, n) * visits * (1 + 0.002 * arm)
        spends = rng.random((2, n)) < 0.02 + 0.04 * np.minimum(activity / 4, 1)
        amounts = rng.lognormal(3.0, 1.0, (2, n))
        table = pa.table(
            {
                "arm": arm,
                "watch_minutes": minutes,
                "watch_minutes_before": rng.gamma(2.0, 6.0, n) * visits_before,
                "revenue": spends[0] * amounts[0],
                "revenue_before": spends[1] * amounts[1],
                "sessions": visits.astype(np.int32),
                "sessions_before": visits_before.astype(np.int32),
                "active": (visits > 0).astype(np.int8),
                "active_before": (visits_before > 0).astype(np.int8),
                "clicks": rng.binomial(visits * 3, 0.2 + 0.001 * arm).astype(np.int32),
                "clicks_before": rng.binomial(visits_before * 3, 0.2).astype(np.int32),
            }
        )
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def by_scan(table: Path) -> Answers:
    """This lab: one scan with DuckDB, then the tests from the sums."""
    control, treatment = scan(table, list(METRICS.values()))
    found: Answers = {}
    for name, columns in METRICS.items():
        result = compare_statistics(control, treatment, columns)
        found[name] = (result.effect, *result.ci95, result.p)
    return found


def by_tea_tasting(table: Path) -> Answers:
    """tea-tasting on the whole table as a pandas frame."""
    import pandas as pd
    import tea_tasting as tt

    metrics: dict[str, tt.RatioOfMeans] = {
        name: tt.RatioOfMeans(
            columns.numerator,
            columns.denominator,
            columns.covariate,
            columns.covariate_denominator,
        )
        for name, columns in METRICS.items()
    }
    results = tt.Experiment(metrics, variant="arm").analyze(pd.read_parquet(table))
    return {
        name: (r.effect_size, r.effect_size_ci_lower, r.effect_size_ci_upper, r.pvalue)
        for name, r in ((name, results[name]) for name in METRICS)
    }


SIDES: dict[str, Callable[[Path], Answers]] = {
    "lab": by_scan,
    "tea_tasting": by_tea_tasting,
}


def peak_memory() -> int:
    """Most memory (bytes) that this process had resident since it began to be this program.

    ``ru_maxrss`` is what the process that started it had, where that is more; Linux keeps the
    figure of the program itself beside it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def imported(side: str) -> None:
    """Import what the side needs, so that the clock does not."""
    import duckdb  # noqa: F401

    if side != "lab":
        import pandas as pd  # noqa: F401
        import tea_tasting as tt  # noqa: F401


def measure(side: str, table: Path) -> dict[str, object]:
    """Run one side once: its answers, seconds, CPU seconds and peak memory."""
    if side not in SIDES:
        raise InputError(f"side = {side!r} must be one of {list(SIDES)}")
    imported(side)
    start, cpu = time.perf_counter(), time.process_time()
    answers = SIDES[side](table)
    return {
        "side": side,
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "peak_bytes": peak_memory(),
        "answers": answers,
    }


def keep_to(cores: int) -> None:
    """Run this process and its threads on the first ``cores`` of the cores that it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def main(arguments: list[str]) -> None:
    """``write TABLE USERS SEED``, or ``SIDE TABLE CORES``, which prints `measure` as JSON."""
    if arguments[0] == "write":
        write_users(Path(arguments[1]), int(arguments[2]), int(arguments[3]))
        return
    keep_to(int(arguments[2]))  # before the libraries count the cores
    json.dump(measure(arguments[0], Path(arguments[1])), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
