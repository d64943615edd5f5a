"""Sweep strategy x checkpointing x precision x compilation: memory against throughput.

``make bench-lab1`` or ``python -m labs.lab1_fsdp_advanced.bench``. Results go to
``runs/lab1_fsdp_advanced_bench``. Compare rows of one run only.

Each combination is printed as one line of JSON when it is done: a sweep that is stopped from
outside publishes nothing, and has said what it measured. With ``--seconds`` it ends by itself and
publishes what it has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from common.errors import require
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
    from matplotlib.figure import Figure

    from labs.lab1_fsdp_advanced.parallelize import Parallelism
    from labs.lab1_fsdp_advanced.worker import Job

GIB = 2**30


@dataclass(frozen=True)
class Sweep(Config):
    """Every combination is trained for a few steps from the same weights."""

    strategies: tuple[StrategyName, ...] = STRATEGIES
    precisions: tuple[PrecisionName, ...] = ("fp32", "bf16")
    modes: tuple[Mode, ...] = ("none", "selective", "full")
    """Activation checkpointing to sweep over."""
    compiles: tuple[bool, ...] = ()
    """Whether blocks are compiled, to sweep over; none: as --compile says."""
    seconds: float = 0.0
    """No combination begins later than that after the first; 0: no limit."""
    steps: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("precisions", "modes"):
            require(bool(getattr(self, name)), name, getattr(self, name), "must not be empty")
        require("auto" not in self.modes, "modes", self.modes, "must be none, selective or full")
        require(self.seconds >= 0, "seconds", self.seconds, "must be >= 0", "0 sets no limit")


@dataclass(frozen=True)
class Row:
    """What one combination needs and reaches; None with a ``reason`` where it was not measured.

    Attributes
    ----------
    tokens_per_second
        Of all ranks.
    peak_bytes, predicted_bytes
        Of the largest rank, at the peak of a step; predicted by ``peak_memory``.
    error
        Predicted / measured - 1.
    first_step_seconds
        The first step, compilation included.
    """

    strategy: str
    precision: str
    checkpointing: str
    compile: bool
    predicted_bytes: int
    tokens_per_second: float | None = None
    mfu: float | None = None
    hfu: float | None = None
    peak_bytes: int | None = None
    error: float | None = None
    step_seconds: float | None = None
    first_step_seconds: float | None = None
    timed_steps: int | None = None
    reason: str = ""


def story(run: Run, config: Sweep) -> None:
    """Train each combination that fits, and write the table."""
    from labs.lab1_fsdp_advanced.planner import fitting

    config = config.on(run.device, run.procs)
    with run.stage("Turn the docstrings into tokens", key="tokens"):
        job = prepare(run, config)
    ways = combinations(config)
    fit, refused = fitting(job, ways, world=run.procs)
    reasons = dict(zip((way for way in ways if way not in fit), refused, strict=True))
    rows = {way: row(run, job, way, {"reason": why}) for way, why in reasons.items()}
    named = {way.name: way for way in fit}

    def on_result(found: dict[str, Any]) -> None:
        way = named[found["way"]]
        rows[way] = row(run, job, way, found)
        print(json.dumps(asdict(rows[way])), flush=True)

    job = replace(
        job,
        ways=tuple(fit),
        checkpoints="",
        validate=False,
        keep_going=True,
        seconds=config.seconds,
    )
    with run.stage(f"Train {len(fit)} combinations", key="sweep"):
        launch(run, job, procs=run.procs, what="sweep", on_result=on_result)
    ordered = [rows[way] for way in ways]
    text = "\n".join([*heading(run, config), *table(ordered)])
    (run.dir / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)
    run.figure("sweep", plot(ordered), caption="Up is faster, left is smaller.")


def combinations(config: Sweep) -> list[Parallelism]:
    """Strategy by strategy; first what differs least from the first of each option.

    So a sweep that is cut short has measured what each option does alone.
    """
    from labs.lab1_fsdp_advanced.parallelize import Parallelism
    from labs.lab1_fsdp_advanced.precision import Precision
    from labs.lab1_fsdp_advanced.sharding import Strategy

    options = (config.modes, config.precisions, config.compiles or (bool(config.compile),))
    first = tuple(values[0] for values in options)
    ordered = sorted(
        product(*options),
        key=lambda chosen: sum(one != other for one, other in zip(chosen, first, strict=True)),
    )
    return [
        Parallelism(Strategy(name), Precision(kind), mode, config.offload, compiled)  # type: ignore[arg-type]
        for name, (mode, kind, compiled) in product(config.strategies, ordered)
    ]


def row(run: Run, job: Job, way: Parallelism, found: dict[str, Any]) -> Row:
    """The row of one combination, from what rank 0 found; also as metrics of the run."""
    from labs.lab1_fsdp_advanced.peak_memory import peak
    from labs.lab1_fsdp_advanced.report import speed

    area = way.name.lower().replace(" ", ".")
    predicted = peak(
        job.shape,
        way.strategy,
        world=run.procs,
        micro_batch=job.global_batch // (run.procs * job.accumulation),
        precision=way.precision,
        checkpointing=way.checkpointing,
        context=job.context,
        micro_batches=job.accumulation,
        offload=way.offload and run.device == "cuda",
        device=run.device,
        compiled=way.compile,
    ).held.total
    limit = way.compile and way.precision == "fp8" and way.checkpointing == "full"
    run.metric(
        f"{area}.peak_formula_bytes",
        predicted,
        unit="bytes",
        how="torch 2.12 or later; before, the products of fp8 are kept as well" if limit else "",
    )
    empty = Row(str(way.strategy), str(way.precision), way.checkpointing, way.compile, predicted)
    if reason := found.get("reason"):
        for name, unit in (
            ("tokens_per_second", "1/s"),
            ("mfu", "ratio"),
            ("hfu", "ratio"),
            ("peak_bytes", "bytes"),
            ("peak_error", "ratio"),
        ):
            run.metric(f"{area}.{name}", None, unit=unit, reason=reason)
        return replace(empty, reason=reason)
    speed(run, area, job, way, found, devices=run.procs if run.device == "cuda" else 1)
    # A large model on a CPU has no recorded peak: the pages of the process, interpreter included.
    measured = found["bytes"].get("peak", found["bytes"]["resident_peak"])
    error = predicted / measured - 1
    run.metric(f"{area}.peak_bytes", measured, unit="bytes", how="largest rank, one step")
    run.metric(f"{area}.peak_error", error, unit="ratio", how="formula / measured - 1")
    run.metric(
        f"{area}.first_step_s", found["first_step_seconds"], unit="s", how="with compilation"
    )
    return replace(
        empty,
        tokens_per_second=found["tokens_per_second"],
        mfu=run.results.metrics[f"{area}.mfu"].value,
        hfu=run.results.metrics[f"{area}.hfu"].value,
        peak_bytes=measured,
        error=error,
        step_seconds=found["step_seconds"],
        first_step_seconds=found["first_step_seconds"],
        timed_steps=found["timed_steps"],
    )


def heading(run: Run, config: Sweep) -> list[str]:
    """On what, how much."""
    return [
        f"{run.hardware}; {run.procs} rank(s); {config.model}, windows of {config.context}, global "
        f"batch {config.global_batch}, {config.steps} steps each",
        "",
    ]


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| strategy | precision | checkpointing | compiled | tokens/s | MFU | HFU | "
        "peak GiB a rank | formula | error | first step s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        names = [each.strategy, each.precision, each.checkpointing, "yes" if each.compile else "no"]
        formula = f"{each.predicted_bytes / GIB:.3g}"
        if each.tokens_per_second is None or each.peak_bytes is None:
            cells = ["-", "-", "-", "-", formula, each.reason.replace("|", "/"), "-"]
        else:
            cells = [
                f"{each.tokens_per_second:,.0f}",
                f"{each.mfu:.1%}",
                f"{each.hfu:.1%}",
                f"{each.peak_bytes / GIB:.3g}",
                formula,
                f"{each.error:+.1%}",
                f"{each.first_step_seconds:.1f}",
            ]
        lines.append(f"| {' | '.join(names + cells)} |")
    return lines


def plot(rows: Sequence[Row]) -> Figure:
    """Memory against throughput; colours are strategy and precision, filled is compiled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    kinds = list(dict.fromkeys(f"{each.strategy} {each.precision}" for each in rows))
    markers = {"none": "o", "selective": "^", "full": "s"}
    for each in rows:
        if each.peak_bytes is not None and each.tokens_per_second is not None:
            axes.plot(
                each.peak_bytes / GIB,
                each.tokens_per_second,
                markers[each.checkpointing],
                color=f"C{kinds.index(f'{each.strategy} {each.precision}')}",
                fillstyle="full" if each.compile else "none",
                markersize=8,
            )
    for place, kind in enumerate(kinds):
        axes.plot([], [], "o", color=f"C{place}", label=kind)
    for mode in dict.fromkeys(each.checkpointing for each in rows):
        axes.plot([], [], markers[mode], color="0.3", label=f"checkpointing: {mode}")
    for compiled in sorted({each.compile for each in rows}):
        axes.plot(
            [],
            [],
            "o",
            color="0.3",
            fillstyle="full" if compiled else "none",
            label="compiled" if compiled else "not compiled",
        )
    axes.set_xlabel("peak of tensors on the largest rank (GiB)")
    axes.set_ylabel("tokens a second, all ranks")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


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
        title="Lab 1: strategies x precision x checkpointing x compilation",
        program="labs.lab1_fsdp_advanced.bench",
    )
