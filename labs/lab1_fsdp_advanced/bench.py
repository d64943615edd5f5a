"""Sweep strategies x precision x checkpointing: memory against throughput, as a table and a plot.

``make bench-lab1`` or ``python -m labs.lab1_fsdp_advanced.bench``. Results go to
``runs/lab1_fsdp_advanced_bench``. Compare rows of one run only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from common.runner import Run, main
from labs.lab1_fsdp_advanced.__main__ import launch, prepare
from labs.lab1_fsdp_advanced.config import (
    STRATEGIES,
    Config,
    PrecisionName,
    StrategyName,
)
from labs.lab1_fsdp_advanced.config import CheckpointingName as Mode

if TYPE_CHECKING:
    from labs.lab1_fsdp_advanced.parallelize import Parallelism


@dataclass(frozen=True)
class Sweep(Config):
    """Every combination is trained for a few steps from the same weights."""

    strategies: tuple[StrategyName, ...] = STRATEGIES
    precisions: tuple[PrecisionName, ...] = ("fp32", "bf16")
    modes: tuple[Mode, ...] = ("none", "selective", "full")
    """Activation checkpointing to sweep over."""
    steps: int = 8


def story(run: Run, config: Sweep) -> None:
    """Train each combination, and write the table."""
    config = config.on(run.device, run.procs)
    with run.stage("Turn the docstrings into tokens", key="tokens"):
        job = prepare(run, config)
    ways = combinations(config)
    with run.stage(f"Train {len(ways)} combinations", key="sweep"):
        found = launch(run, replace(job, ways=ways), procs=run.procs, what="sweep")
    table(run, config, {way: found["ways"][way.name] for way in ways}, found["world"])


def combinations(config: Sweep) -> tuple[Parallelism, ...]:
    """Strategy by strategy, each precision, each checkpointing."""
    from labs.lab1_fsdp_advanced.parallelize import Parallelism
    from labs.lab1_fsdp_advanced.precision import Precision
    from labs.lab1_fsdp_advanced.sharding import Strategy

    return tuple(
        Parallelism(Strategy(name), Precision(kind), mode, config.offload, bool(config.compile))  # type: ignore[arg-type]
        for name, kind, mode in product(config.strategies, config.precisions, config.modes)
    )


def table(
    run: Run, config: Sweep, results: Mapping[Parallelism, dict[str, Any]], world: int
) -> None:
    """Metrics, a Markdown table beside the results, and memory against throughput."""
    from matplotlib.figure import Figure

    from labs.lab1_fsdp_advanced.report import speed
    from labs.lab1_fsdp_advanced.worker import Job

    job = Job.read(run.work / "job.json")
    devices = world if run.device == "cuda" else 1
    lines = [
        f"{run.hardware}; {world} ranks; {config.model}, windows of {config.context}, global "
        f"batch {config.global_batch}, {config.steps} steps each",
        "",
        "| strategy | precision | checkpointing | tokens/s | MFU | HFU | peak MiB a rank |",
        "|---|---|---|---|---|---|---|",
    ]
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    colours = {str(name): f"C{place}" for place, name in enumerate(config.strategies)}
    markers = dict(zip(config.modes, "o^s"))
    for way, result in results.items():
        area = way.name.lower().replace(" ", ".")
        speed(run, area, job, way, result, devices=devices)
        peak = result["bytes"].get("peak", result["bytes"]["resident_peak"])
        run.metric(f"{area}.peak_bytes", peak, unit="bytes")
        rate, mib = result["tokens_per_second"], peak / 2**20
        used = [run.results.metrics[f"{area}.{name}"].value or 0 for name in ("mfu", "hfu")]
        lines.append(
            f"| {way.strategy} | {way.precision} | {way.checkpointing} | {rate:,.0f} | "
            f"{used[0]:.1%} | {used[1]:.1%} | {mib:,.1f} |"
        )
        axes.plot(
            mib,
            rate,
            markers[way.checkpointing],
            color=colours[str(way.strategy)],
            fillstyle="full" if way.precision == config.precisions[0] else "none",
            markersize=8,
        )
    for name, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=name)
    for mode, marker in markers.items():
        axes.plot([], [], marker, color="0.3", label=f"checkpointing: {mode}")
    for kind, style in zip(config.precisions, ("full", "none")):
        axes.plot([], [], "o", color="0.3", fillstyle=style, label=kind)  # type: ignore[arg-type]
    axes.set_xlabel("peak of tensors on the largest rank (MiB)")
    axes.set_ylabel("tokens a second, all ranks")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    run.figure("sweep", figure, caption="Up is faster, left is smaller.")
    text = "\n".join(lines)
    (run.dir / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)


SCALES = {
    "smoke": Sweep(
        model="0.2M",
        context=64,
        global_batch=8,
        steps=4,
        texts=6000,
        strategies=("NO_SHARD", "FULL_SHARD"),
        modes=("none", "full"),
        compile=False,
    ),
    "standard": Sweep(compile=False),
    "full": Sweep(
        model="auto",
        context=0,
        global_batch=0,
        accumulation=1,
        steps=12,
        learning_rate=3e-4,
        precisions=("bf16", "fp8"),
    ),
}

if __name__ == "__main__":
    main(
        "lab1_fsdp_advanced_bench",
        SCALES,
        story,
        title="Lab 1: strategies x precision x checkpointing",
        program="labs.lab1_fsdp_advanced.bench",
    )
