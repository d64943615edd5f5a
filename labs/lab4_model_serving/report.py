"""The lab's one table, and what a scale does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labs.lab4_model_serving.claims import FAULTS, FULL_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.runner import Run
    from labs.lab4_model_serving.config import Config
    from labs.lab4_model_serving.ladder import Rung
    from labs.lab4_model_serving.rate_search import FoundRate

SHORTEST_S = 60.0
"""The deliverable is a rate that is kept for a minute."""


def the_table(
    run: Run, config: Config, rungs: Sequence[Rung], served: FoundRate, own: FoundRate
) -> None:
    """Eager to served: accuracy, size, latency, rate within the limit; a figure and metrics."""
    from labs.lab4_model_serving.ladder import draw_ladder, draw_table

    rates = {}
    device = "one CPU core" if run.device == "cpu" else "the GPU"
    for rung in rungs:
        area = "ladder." + rung.name.lower().replace(" ", "_")
        run.metric(f"{area}.accuracy", rung.accuracy, unit="ratio", n=rung.n)
        run.metric(f"{area}.bytes", rung.size_bytes, unit="bytes")
        run.latency(area, rung.latency)
        best = rung.search.best
        run.metric(
            f"{area}.qps_at_slo",
            rung.qps_at_slo,
            unit="1/s",
            n=best.n if best else 0,
            how=f"open loop in this process on {device}, p99 < {config.p99_limit_ms:g} ms, answered"
            "; one trial" + (", the highest rate tried" if rung.search.at_limit else ""),
        )
        rates[rung.name] = rung.qps_at_slo
    eager, batched = rungs[0].qps_at_slo, rungs[-1].qps_at_slo
    run.metric(
        "serving.speedup_vs_eager",
        batched / eager if eager else None,
        unit="ratio",
        how=f"rate within the limit, batched {config.served} over eager PyTorch, both in one "
        f"process on {device}",
        reason="" if eager else "eager PyTorch kept the limit at no rate that was tried",
    )
    for name, why in left_out(run.device, config.served).items():
        run.metric(f"ladder.{name}.qps_at_slo", None, unit="1/s", reason=why)
    rates["served by TorchServe"] = served.rate
    rates["served by the lab's server"] = own.rate
    served_rows = [("TorchServe, HTTP", "serving", served), ("the lab's server", "own", own)]
    metrics, last = run.results.metrics, rungs[-1]
    rows = [
        (r.name, r.accuracy, r.size_bytes, r.latency.p50_ms, r.latency.p99_ms, r.qps_at_slo)
        for r in rungs
    ] + [
        (
            name,
            last.accuracy,
            last.size_bytes,
            metrics[f"{area}.p50_ms"].value,
            metrics[f"{area}.p99_ms"].value,
            found.rate,
        )
        for name, area, found in served_rows
    ]
    run.figure(
        "table",
        draw_table(rows),
        caption="Accuracy, size, latency and the rate within the limit. Latency of the rungs is of "
        "one text at a time; of the servers, at the rate in the last column.",
    )
    run.figure(
        "ladder",
        draw_ladder(rates, config.p99_limit_ms),
        caption="One classifier, step by step: the rate that keeps the limit. The rungs answer in "
        f"this process, one batch at a time on {device}; the servers have "
        f"{run.results.metrics['serving.workers'].value:g} workers, and share the cores with HTTP "
        "and the load generator.",
    )


def left_out(device: str, served: str) -> dict[str, str]:
    """Rungs that a GPU does not have, each with the reason."""
    if device == "cpu":
        return {}
    found = {
        "torchscript": "its constants were frozen on the CPU; measured where the device is one"
    }
    if served != "int8":
        found["int8"] = "dynamic INT8 has no CUDA kernels: see placement.int8_kernels_on_cpu"
    return found


def what_this_scale_leaves_out(run: Run, config: Config) -> None:
    """Claims that this run cannot show, each with its reason."""
    if not config.faults_s:
        for claim in FAULTS:
            run.unmeasured(claim, "this scale kills nothing; --faults-s 15 does")
    if config.ladder_s < 1:
        run.unmeasured("L4.speedup", "trials of this length hold too few requests for a p99")
    if run.scale == "smoke":
        run.unmeasured("L4.rollout", "at this scale the live version's answers are the truth")
    elif set(config.rollouts) != {"good", "slow", "wrong"}:
        run.unmeasured("L4.rollout", f"this scale rolls out {', '.join(config.rollouts)} alone")
    if not config.scaling_s:
        run.unmeasured("L4.scaling", "this scale leaves TorchServe's autoscaling out")
    if config.p99_limit_ms != 50 or config.confirm_s < SHORTEST_S:
        for claim in FULL_SIZE:
            run.unmeasured(
                claim,
                f"the claim is about p99 < 50 ms for {SHORTEST_S:g} s; this run asked for "
                f"{config.p99_limit_ms:g} ms and {config.confirm_s:g} s",
            )
