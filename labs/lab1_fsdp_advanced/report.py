"""What the lab measured, as metrics and figures of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from common.runner import Run
from labs.lab1_fsdp_advanced import memory_tracker, peak_memory
from labs.lab1_fsdp_advanced.chrome_trace import read_trace
from labs.lab1_fsdp_advanced.memory import padded_parameters, predicted, ranks_that_share
from labs.lab1_fsdp_advanced.model import Decoder
from labs.lab1_fsdp_advanced.parallelize import Parallelism
from labs.lab1_fsdp_advanced.profiling import timeline
from labs.lab1_fsdp_advanced.throughput import (
    hardware_flops_per_token,
    model_flops_per_token,
    utilisation,
)
from labs.lab1_fsdp_advanced.worker import LARGE, PROFILED_STEPS, Job

PARTS = ("parameters", "gradients", "optimizer")
GIB = 2**30


def strategies(
    run: Run, job: Job, ways: Sequence[Parallelism], trained: dict[str, Any], *, tracker: bool
) -> None:
    """Loss, speed and memory of each strategy; the claims about what was trained."""
    errors = {}
    for way in ways:
        result, world = trained["ways"][way.name], trained["worlds"][way.name]
        area = way.strategy.lower()
        speed(run, area, job, way, result, devices=world if run.device == "cuda" else 1)
        run.metric(f"{area}.first_loss", result["losses"][0], unit="nats/token")
        run.metric(
            f"{area}.validation_loss",
            result["validation"][1],
            unit="nats/token",
            how=f"held-out docstrings, after {job.steps} steps on {world} rank(s)",
        )
        formula = between_steps(job, way, world)
        counted = {part: result["bytes"][part] for part in PARTS}
        for part in PARTS:
            run.metric(
                f"{area}.{part}_bytes",
                counted[part],
                unit="bytes",
                how=f"largest rank's local tensors; the formula says {formula[part]:,}",
            )
        errors[way.name] = abs(sum(counted.values()) / sum(formula.values()) - 1)
        run.metric(
            f"{area}.after_forward_bytes",
            result["bytes"]["after_forward"],
            unit="bytes",
            how="parameters on the largest rank between forward and backward pass",
        )
    run.metric(
        "memory.largest_error",
        max(errors.values()),
        unit="ratio",
        n=len(errors),
        how="weights + gradients + optimizer between steps, formula against the tensors counted",
    )
    peaks(run, job, ways, trained, tracker=tracker)
    equivalence(run, trained)
    for result in trained["ways"].values():
        saved(run, "checkpoint", result)
    first = trained["ways"][ways[0].name]
    run.metric("lab1.parameters", first["parameters"], unit="parameters")
    run.metric("lab1.ranks", trained["worlds"][ways[0].name], unit="ranks")
    if job.shape.parameters >= LARGE:
        large(run, trained, ways)
    run.figure(
        "strategies",
        loss_and_memory(job, trained),
        caption="Left: every strategy computes the same training, so the curves coincide. Right: "
        "what the largest rank holds between steps; the cross is what it holds of the weights "
        "between forward and backward pass.",
    )


def between_steps(job: Job, way: Parallelism, world: int) -> dict[str, int]:
    """The formula's bytes of the rank that holds most, uneven shards included."""
    with torch.device("meta"):
        model = Decoder(job.shape)
    sharing = ranks_that_share(way.strategy, world, world)
    held = predicted(padded_parameters(model.parameters(), sharing), way.strategy, world, world)
    return {part: getattr(held, part) for part in PARTS}


def speed(
    run: Run, area: str, job: Job, way: Parallelism, result: dict[str, Any], *, devices: int
) -> None:
    """Tokens a second, MFU and HFU."""
    rate, peak = result["tokens_per_second"], devices * result["peak_flops"]
    run.metric(
        f"{area}.tokens_per_second",
        rate,
        unit="1/s",
        n=result["timed_steps"],
        how="global batch / median time of a step, all ranks together",
    )
    model = model_flops_per_token(job.shape, job.context)
    hardware = hardware_flops_per_token(job.shape, job.context, way.checkpointing)
    for name, flops in (("mfu", model), ("hfu", hardware)):
        run.metric(
            f"{area}.{name}",
            utilisation(rate, flops, peak),
            unit="ratio",
            n=result["timed_steps"],
            how=f"{flops:,} operations a token, peak {peak:.3g} a second ({result['peak_source']})",
        )


def peaks(
    run: Run, job: Job, ways: Sequence[Parallelism], trained: dict[str, Any], *, tracker: bool
) -> None:
    """The peak of a step: by formula, by FSDPMemTracker, and measured."""
    cases, rows = [], []
    for way in ways:
        world = trained["worlds"][way.name]
        cases.append(
            memory_tracker.Case(
                shape=job.shape,
                strategy=way.strategy,
                world=world,
                micro_batch=job.global_batch // (world * job.accumulation),
                precision=way.precision,
                checkpointing=way.checkpointing,
                context=job.context,
                micro_batches=job.accumulation,
                device=job.device,
            )
        )
    tracked = [each.held for each in memory_tracker.predict_all(cases)] if tracker else []
    for way, case, by_tracker in zip_longest(ways, cases, tracked):
        arguments = {name: getattr(case, name) for name in case.__dataclass_fields__}
        formula = peak_memory.peak(**arguments, offload=way.offload, compiled=way.compile).held
        measured = trained["ways"][way.name]["bytes"].get("peak")
        area = way.strategy.lower()
        run.metric(f"{area}.peak_formula_bytes", formula.total, unit="bytes")
        if by_tracker:
            run.metric(
                f"{area}.peak_tracker_bytes",
                by_tracker.total,
                unit="bytes",
                how="eager kernels; compiled blocks keep less" if way.compile else "",
            )
        run.metric(
            f"{area}.peak_bytes",
            measured,
            unit="bytes",
            how="largest rank, tensors at the peak of one step",
            reason="" if measured else "read from resident memory at this size",
        )
        rows.append(memory_tracker.Compared(way.strategy, formula, by_tracker, measured))
    run.figure(
        "peak_memory",
        memory_tracker.figure(rows),
        caption="What a rank holds at the peak of a step, predicted twice and measured. Only "
        "weights, gradients and optimizer shrink with the number of ranks.",
    )


def equivalence(run: Run, trained: dict[str, Any]) -> None:
    """Against one process: gradients of every strategy, and the methods written by hand."""
    run.metric(
        "lab1.gradient_difference",
        max(trained["differences"].values()),
        unit="absolute",
        n=len(trained["differences"]),
        how="largest over strategies and weights; small fp32 model, same global batch",
    )
    by_hand = trained["by_hand"]
    run.metric(
        "by_hand.weight_difference",
        max(found["weight_difference"] for found in by_hand.values()),
        unit="absolute",
        n=len(by_hand) - 1,
        how="largest over methods and weights, after 3 steps of AdamW",
    )
    for name, found in by_hand.items():
        run.metric(f"by_hand.{name}.collectives", int(found["collectives"]), unit="calls")
        run.metric(f"by_hand.{name}.volume_bytes", int(found["volume_bytes"]), unit="bytes")
        run.metric(f"by_hand.{name}.state_bytes", int(found["state_bytes"]), unit="bytes")


def large(run: Run, trained: dict[str, Any], ways: Sequence[Parallelism]) -> None:
    """The deliverable's own figures: the fastest strategy of a model of the full size."""
    best = max(ways, key=lambda way: trained["ways"][way.name]["tokens_per_second"])
    result, area = trained["ways"][best.name], best.strategy.lower()
    run.metric("full.params", result["parameters"], unit="parameters", how=best.name)
    before, after = result["validation"]
    held_out = "held-out docstrings, the same windows"
    run.metric("full.loss_first", before, unit="nats/token", how=f"{held_out}, before training")
    run.metric(
        "full.loss_last",
        after,
        unit="nats/token",
        how=f"{held_out}, after {len(result['losses'])} steps",
    )
    run.metric(
        "full.peak_rss_gib",
        result["bytes"]["resident_peak_of_all"] / GIB,
        unit="GiB",
        n=trained["worlds"][best.name],
        how="sum over ranks of each one's largest resident set, checkpoint included",
    )
    run.results.metrics["full.mfu"] = run.results.metrics[f"{area}.mfu"]
    if "peak" in result["bytes"]:
        run.metric("full.peak_gpu_gib", result["bytes"]["peak"] / GIB, unit="GiB")
    run.metric("full.loss_fell", before - after, unit="nats/token", how=held_out)


def variants(run: Run, job: Job, kinds: Mapping[str, Parallelism], found: dict[str, Any]) -> None:
    """Speed, loss and peak memory of each way to compute, beside fp32 without checkpointing."""
    rows = {}
    for name, way in kinds.items():
        result = found["ways"][way.name]
        devices = found["world"] if run.device == "cuda" else 1
        speed(run, f"variant.{name}", job, way, result, devices=devices)
        run.metric(
            f"variant.{name}.last_loss",
            result["losses"][-1],
            unit="nats/token",
            how=f"training loss of step {job.steps}; {result['skipped']} step(s) left out",
        )
        peak = result["bytes"].get("peak")
        if peak:
            run.metric(f"variant.{name}.peak_bytes", peak, unit="bytes")
            rows[name] = (peak / 2**20, result["tokens_per_second"])
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (mib, rate) in rows.items():
        axes.plot(mib, rate, "o", markersize=8)
        axes.annotate(name, (mib, rate), xytext=(6, 5), textcoords="offset points", fontsize=9)
    axes.set_xlabel("peak of tensors on the largest rank (MiB)")
    axes.set_ylabel("tokens a second, all ranks")
    axes.margins(0.15)
    run.figure(
        "variants",
        figure,
        caption="FULL_SHARD computed in other ways: up is faster, left is smaller. A CPU emulates "
        "fp8 and fp16: they show rounding there, not speed.",
    )


def saved(run: Run, area: str, result: dict[str, Any]) -> None:
    """What a checkpoint cost: bytes, seconds until it was on disk, seconds training stood still."""
    for save in result["saves"][:1]:
        how = f"rank 0, step {save['step']}"
        run.metric(f"{area}.bytes", save["bytes"], unit="bytes", how=how)
        run.metric(f"{area}.written_s", save["written_s"], unit="s", how=how)
        run.metric(f"{area}.stalled_s", save["stalled_s"], unit="s", how=how)


def learned(run: Run, job: Job, result: dict[str, Any]) -> None:
    """The longer run: held-out loss beside the entropy of single tokens; where its time went."""
    entropy = run.results.metrics["tokens.unigram_entropy"].value
    assert entropy is not None
    run.metric(
        "learn.validation_loss",
        result["validation"][1],
        unit="nats/token",
        how=f"after {job.steps} steps of {job.global_batch * job.context:,} tokens",
    )
    run.metric(
        "learn.below_unigram",
        entropy - result["validation"][1],
        unit="nats/token",
        how="entropy of single tokens less the held-out loss",
    )
    saved(run, "checkpoint.asynchronous", result)
    profile = result["profile"]
    for name in ("communication_share", "exposed_share"):
        run.metric(
            f"learn.{name}",
            profile[name],
            unit="ratio",
            n=PROFILED_STEPS,
            how="of a step's time, rank 0, torch.profiler",
        )
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(result["losses"]) + 1), result["losses"], linewidth=1, label="training")
    axes.axhline(entropy, color="0.4", linestyle="--", label="entropy of single tokens")
    axes.plot(len(result["losses"]), result["validation"][1], "ko", label="held out, at the end")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats/token)")
    axes.legend(fontsize=8)
    run.figure(
        "learning",
        figure,
        caption="A model that only knew how frequent each token is would stay on the dashed line.",
    )
    trace = Path(job.profile) / "trace-rank-0.json.gz"
    run.figure(
        "timeline",
        timeline(read_trace(trace)),
        caption="One step of rank 0: when it communicates and when it computes. What lies under no "
        "computation is exposed: the step is longer by it.",
    )


def resumed(
    run: Run,
    job: Job,
    result: dict[str, Any],
    expected: dict[str, Any],
    *,
    ranks: tuple[int, int],
) -> None:
    """Losses after the checkpoint, in new processes and in those that never stopped."""
    first = result["resumed_at"]
    pairs = list(zip(result["losses"], expected["losses"][first:], strict=True))
    name = "lab1" if job.shape.parameters < LARGE else "full"
    metric = {"lab1": "lab1.resume_loss_difference", "full": "full.resume_loss_diff"}[name]
    run.metric(
        metric,
        max(abs(ours - theirs) for ours, theirs in pairs),
        unit="nats/token",
        n=len(pairs),
        how=f"largest over the steps after step {first}: {ranks[0]} rank(s), resumed on {ranks[1]}",
    )


def loss_and_memory(job: Job, trained: dict[str, Any]) -> Figure:
    """Loss curves that lie on each other, and the memory that does not."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    loss, memory = figure.subplots(1, 2)
    results = trained["ways"]
    for width, (name, result) in zip((9, 7, 5, 3, 1), results.items()):
        steps = range(1, len(result["losses"]) + 1)
        loss.plot(steps, result["losses"], linewidth=width, label=name.split()[0])
    loss.set_xlabel("step")
    loss.set_ylabel("training loss (nats/token)")
    loss.legend(fontsize=8)
    names = [f"{name.split()[0]}\n{trained['worlds'][name]} ranks" for name in results]
    below = [0.0] * len(results)
    for part in PARTS:
        heights = [result["bytes"][part] / 2**20 for result in results.values()]
        memory.bar(names, heights, bottom=below, label=part)
        below = [low + height for low, height in zip(below, heights)]
    held = [result["bytes"]["after_forward"] / 2**20 for result in results.values()]
    memory.plot(names, held, "kx", label="weights after a forward pass")
    memory.set_ylabel("MiB on the largest rank")
    memory.tick_params(axis="x", labelsize=7)
    memory.set_ylim(top=1.35 * max(below))  # room for the legend above the bars
    memory.legend(fontsize=8, loc="upper left", ncols=2)
    return figure
