"""The middle of the run: serve, load, overload, roll out."""

from __future__ import annotations

import json
from contextlib import contextmanager
from math import isfinite, isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from common.data.labelled_texts import Part
    from common.runner import Run
    from labs.lab4_model_serving.bundle import Bundle
    from labs.lab4_model_serving.config import Config
    from labs.lab4_model_serving.deployment import Plan
    from labs.lab4_model_serving.load_result import LoadResult
    from labs.lab4_model_serving.overload import Overload
    from labs.lab4_model_serving.rate_search import FoundRate
    from labs.lab4_model_serving.torchserve import TorchServe


OVERLOAD_CLAIMS = ("L4.overload", "L4.shed", "L4.recovery")
OVERLOAD_S = 30.0
START_S = {"cpu": 60.0, "cuda": 120.0}
"""So long may a server take to be ready: on a GPU each worker loads CUDA's libraries first."""


def plan_for(run: Run, config: Config) -> Plan:
    """Device, workers and threads for this machine; ``--workers`` has the last word."""
    from dataclasses import replace

    from labs.lab4_model_serving.config import WORKERS_PER_GPU
    from labs.lab4_model_serving.deployment import plan, this_machine

    found = plan(
        this_machine(),
        device="cuda" if run.device == "cuda" else "cpu",
        workers_per_gpu=WORKERS_PER_GPU,
    )
    if not config.workers:
        return found
    return replace(found, workers=config.workers, reason=f"--workers {config.workers}")


def bodies_of(part: Part) -> list[bytes]:
    """Requests for texts."""
    return [json.dumps({"text": text}).encode() for text in part.texts]


def said(rate: float, result: LoadResult) -> None:
    """One line for one run of the load generator."""
    summary = result.summary
    stopped = f", stopped: {result.stopped}" if result.stopped else ""
    print(
        f"  {rate:7.0f}/s offered, {result.achieved_rate:7.0f}/s answered, p50 "
        f"{summary.p50_ms:6.1f} ms, p99 {summary.p99_ms:7.1f} ms, {result.failed} failed{stopped}",
        flush=True,
    )


@contextmanager
def on_torchserve(run: Run, config: Config, bundle: Bundle) -> Iterator[TorchServe]:
    """TorchServe with the bundle: a worker a core, or several on each GPU."""
    from labs.lab4_model_serving.archive import archive_bundle
    from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

    store = run.work / "store"
    served = plan_for(run, config)
    run.metric("serving.workers", served.workers, unit="processes", how=served.reason)
    spec = ModelSpec(
        bundle.name,
        archive_bundle(bundle, store),
        bundle.version,
        workers=served.workers,
        batch_size=config.batch_size,
        max_batch_delay_ms=config.max_batch_delay_ms,
    )
    with torchserve(
        store,
        [spec],
        folder=run.dir / "logs" / "torchserve",
        inference_port=config.inference_port,
        queue_size=config.queue_size,
        gpus=served.gpus,
        start_timeout=START_S[served.device],
    ) as server:
        print(f"  TorchServe on {server.url}, workers {server.worker_pids()}", flush=True)
        yield server


def load_torchserve(
    run: Run, config: Config, server: TorchServe, bundle: Bundle, part: Part
) -> FoundRate:
    """The deliverable: the highest rate within the limit, confirmed by a run of a minute."""
    from labs.lab4_model_serving.figures_load import draw_rate_search

    url = server.prediction_url(bundle.name)
    found = find(run, config, url, server.headers, part, confirm_s=config.confirm_s)
    report_rate(run, config, "serving", found)
    run.figure(
        "rates",
        draw_rate_search(found, config.p99_limit_ms),
        caption=f"TorchServe, {bundle.precision} on {run.device}, raw text over HTTP: the p99 with "
        "its 95 % interval at every rate that was tried.",
    )
    return found


def find(
    run: Run,
    config: Config,
    url: str,
    headers: dict[str, str],
    part: Part,
    *,
    confirm_s: float,
) -> FoundRate:
    """Warm up, search, confirm."""
    from labs.lab4_model_serving.arrivals import poisson_schedule
    from labs.lab4_model_serving.early_stopping import Slo
    from labs.lab4_model_serving.load_generator import load_http
    from labs.lab4_model_serving.rate_search import find_rate

    bodies = bodies_of(part)
    # The JVM compiles what is hot only under load: cold, it stalls for 100 ms and more.
    warm = min(8.0, 2 * config.search_s)
    rate = min(config.search_high / 4, 4 * config.search_low)
    load_http(url, bodies, poisson_schedule(rate, warm, 1), headers=headers)
    return find_rate(
        url,
        bodies,
        Slo(config.p99_limit_ms, config.failed_share),
        low=config.search_low,
        high=config.search_high,
        headers=headers,
        trial_s=config.search_s,
        confirm_s=confirm_s,
        warmup_s=min(1.0, config.search_s),
        precision=config.search_precision,
        seed=run.seed,
        progress=said,
    )


def report_rate(run: Run, config: Config, area: str, found: FoundRate) -> None:
    """Record the rate that was confirmed, and the latencies there; nothing of a mere trial."""
    limit = f"p99 < {config.p99_limit_ms:g} ms, at most {config.failed_share:.1%} refused"
    if not found.confirmed:
        why = f"no rate with {limit} was confirmed"
        for name, unit in (
            *(("p50_ms", "ms"), ("p95_ms", "ms"), ("p99_ms", "ms"), ("p99_upper_ms", "ms")),
            *(("errors", "requests"), ("confirmed_s", "s"), ("generator_busy", "ratio")),
        ):
            run.metric(f"{area}.{name}", None, unit=unit, reason=why)
        run.metric(f"{area}.qps_at_slo", 0.0, unit="1/s", n=found.trials[0].result.n, how=why)
        return
    shown = found.confirmed.result
    run.metric(
        f"{area}.qps_at_slo",
        found.rate,
        unit="1/s",
        n=shown.n,
        how=f"highest Poisson rate with {limit}, measured anew for {shown.duration:.0f} s",
    )
    run.latency(area, shown.summary)
    interval = shown.p99_interval()
    run.metric(
        f"{area}.p99_upper_ms",
        1000 * interval.high if isfinite(interval.high) else None,
        unit="ms",
        n=shown.n,
        how="upper end of the p99's 95 % interval",
        reason="" if isfinite(interval.high) else "too few requests, or too many failed",
    )
    run.metric(f"{area}.errors", shown.failed, unit="requests", n=shown.n)
    run.metric(f"{area}.confirmed_s", shown.duration, unit="s")
    run.metric(f"{area}.generator_busy", shown.busy, unit="ratio", how="of one core")
    for caveat in shown.caveats():
        run.note(f"{area}: {caveat}.")
    if found.at_limit:
        run.note(f"{area}: the highest rate tried met {limit}; the server may do more.")


def own_server(run: Run, config: Config, bundle: Bundle, part: Part) -> FoundRate:
    """The lab's server on the same bundle: its rate, then three times that."""
    from labs.lab4_model_serving.overload import measure_overload
    from labs.lab4_model_serving.server import serve_bundle
    from labs.lab4_model_serving.versions import BatchSettings

    served = plan_for(run, config)
    # One process, on one GPU: the workers of the others are no threads of its own.
    runners = -(-served.workers // max(1, served.gpus))
    settings = BatchSettings(
        max_batch=config.batch_size, max_queue=config.queue_size, runners=runners
    )
    after_s = min(10.0, 5 * config.overload_s)
    with serve_bundle(
        bundle.folder,
        folder=run.dir / "logs" / "own",
        settings=settings,
        device=served.device,
        start_timeout=START_S[served.device],
    ) as server:
        url, headers = server.prediction_url(), server.headers
        found = find(run, config, url, headers, part, confirm_s=config.confirm_s / 6)
        report_rate(run, config, "own", found)
        if not found.confirmed:
            for claim in OVERLOAD_CLAIMS:
                run.unmeasured(claim, "no rate was confirmed that could be multiplied")
            return found
        shed = measure_overload(
            url,
            bodies_of(part),
            capacity=found.rate,
            multiple=config.overload,
            overload_s=config.overload_s,
            before_s=min(2.0, config.overload_s),
            after_s=after_s,
            hold_s=min(1.0, after_s / 2),
            slo_ms=config.p99_limit_ms,
            headers=headers,
            seed=run.seed,
        )
    report_overload(run, config, shed, after_s)
    return found


def report_overload(run: Run, config: Config, shed: Overload, after_s: float) -> None:
    """What was offered, answered in time, refused, and how long it took to recover."""
    from labs.lab4_model_serving.figures_load import draw_overload

    n = int(config.overload_s * shed.offered_rate)
    accepted = round(n * (1 - shed.refused_share - shed.lost_share))
    run.metric("overload.offered", shed.offered_rate, unit="1/s", n=n)
    run.metric("overload.goodput", shed.goodput, unit="1/s", n=n)
    run.metric(
        "overload.accepted_p99_ms",
        shed.accepted_p99_ms if accepted else None,
        unit="ms",
        n=accepted,
        reason="" if accepted else "nothing was accepted",
    )
    run.metric("overload.refused_share", shed.refused_share, unit="ratio", n=n)
    run.metric("overload.lost_share", shed.lost_share, unit="ratio", n=n)
    with_header = 0.0 if isnan(shed.retry_after_share) else shed.retry_after_share
    not_told = shed.lost_share + shed.refused_share * (1 - with_header)
    run.metric(
        "overload.not_told",
        round(not_told * n),
        unit="requests",
        n=n,
        how="neither answered nor refused with 503 and Retry-After",
    )
    seen = isfinite(shed.recovery_s)
    run.metric(
        "overload.recovery_s",
        shed.recovery_s if seen else shed.watched_s,
        unit="s",
        how="until the p99 was within the limit again" if seen else "at least: not seen recovering",
    )
    for caveat in shed.generator.caveats():
        run.note(f"overload: {caveat}.")
    small = config.overload < 3 or config.overload_s < OVERLOAD_S or config.p99_limit_ms != 50
    if small or not shed.refused_share:
        why = (
            f"the claim is about 3 times the rate for {OVERLOAD_S:g} s and 50 ms"
            if small
            else "nothing was refused: it was no overload"
        )
        for claim in OVERLOAD_CLAIMS:
            run.unmeasured(claim, why)
    run.figure(
        "overload",
        draw_overload(shed),
        caption=f"The lab's server at {config.overload:g} times its rate: what was offered, "
        "answered and refused, and the p99 of what was accepted, beside the limit.",
    )


def batching(run: Run, bundle: Bundle, part: Part) -> None:
    """The batcher at several sizes and rates with the queueing model beside it; rules compared."""
    from labs.lab4_model_serving.batching_policies import (
        compare_bounds,
        compare_padding,
        compare_policies,
    )
    from labs.lab4_model_serving.batching_sweep import measure_service_time, sweep
    from labs.lab4_model_serving.figures_batching import (
        draw_latency_curve,
        draw_overload,
        draw_policies,
        draw_service_time,
    )
    from labs.lab4_model_serving.predictor import Predictor

    predictor = Predictor(bundle, device=run.device)
    if run.scale == "smoke":
        measured = measure_service_time(predictor.predict, part.texts, sizes=(1, 4, 8), repeats=3)
        swept = sweep(
            predictor.predict,
            part.texts,
            batches=(1, 8),
            loads=(0.5,),
            seconds=0.5,
            measured=measured,
        )
    else:
        swept = sweep(predictor.predict, part.texts)
    service = swept.measured.service
    n = sum(point.n for point in swept.points)
    run.metric("batching.fixed_ms", 1000 * service.fixed_s, unit="ms", how="a in a + b n")
    run.metric("batching.item_ms", 1000 * service.item_s, unit="ms", how="b in a + b n")
    run.metric("batching.limit_qps", 32 / service.batch_s(32), unit="1/s", how="batches of 32")
    run.metric(
        "batching.model_error",
        swept.relative_error,
        unit="ratio",
        n=n,
        how="median over the points, of mean latency",
    )
    run.metric("batching.drift", swept.drift, unit="ratio", how="a batch after over before")
    run.figure(
        "service_time",
        draw_service_time(swept),
        caption="What a batch costs, measured, with the straight line through it.",
    )
    run.figure(
        "batching",
        draw_latency_curve(swept),
        caption="Latency by rate at several batch sizes: points measured, lines the queueing "
        "model's, drawn from the service times alone.",
    )
    curves = compare_policies(seed=run.seed)
    run.figure(
        "batch_policies",
        draw_policies(curves),
        caption="Since when does the delay run? Simulated; the same requests for every rule.",
    )
    bounds = compare_bounds(seed=run.seed)
    bounded, unbounded = bounds[-1], bounds[0]
    run.figure(
        "bounds",
        draw_overload(bounds),
        caption="Goodput and p99 by load, with and without a bound on the queue (simulated).",
    )
    for name, found in (("unbounded", unbounded), ("bounded", bounded)):
        run.metric(
            f"batching.goodput_{name}",
            found.goodput[-1] / found.throughput[-1],
            unit="ratio",
            how=f"answers in time over all at {found.loads[-1]:g} times the limit, simulated",
        )
    tokens = [len(ids) for ids in predictor.encode(part.texts)]
    padding = compare_padding(tokens, [len(text) for text in part.texts])
    run.metric("batching.waste_in_order", padding.in_order, unit="ratio", n=len(tokens))
    run.metric("batching.waste_by_length", padding.by_length, unit="ratio", n=len(tokens))


def roll_out(run: Run, config: Config, bundles: Sequence[Bundle], part: Part) -> None:
    """A good version is promoted; a slow and a wrong one are sent back, without a lost request."""
    from labs.lab4_model_serving import canary_run
    from labs.lab4_model_serving.figures_rollout import draw_canaries
    from labs.lab4_model_serving.predictor import Predictor
    from labs.lab4_model_serving.rollout import Rollout, Step
    from labs.lab4_model_serving.rollout_policy import Guardrails

    least = config.canary_samples
    rollout = Rollout(
        model=bundles[0].name,
        old=bundles[0].version,
        new=bundles[1].version,
        salt="canary",
        steps=tuple(Step(weight, least * 2**i) for i, weight in enumerate(config.canary_weights)),
        guardrails=Guardrails(p99_ms=config.p99_limit_ms),
        look_every_s=0.2,
        give_up_after_s=60.0,
    )
    names = [bundles[0].labels[label] for label in part.labels]
    if run.scale == "smoke":
        # Its model has hardly learnt: nobody could be told from a wrong one by the true labels.
        live = Predictor(bundles[0], device=run.device)
        names = [answer.label for answer in live.predict(part.texts)]
    found = canary_run.canaries(
        bundles[0].folder,
        bundles[1].folder,
        part.texts,
        names,
        rollout,
        folder=run.dir / "logs" / "rollout",
        rate=config.canary_rate,
        stories=config.rollouts,
        most_texts=min(1000, len(part)),
        device=run.device,
        seed=run.seed,
    )
    for canary in found:
        print(f"  {canary.story:6} {canary.status}: {canary.reason}", flush=True)
    units = {"seconds": "s", "agreement": "ratio", "expected": "rollouts"}
    requests = sum(canary.requests for canary in found)
    for name, value in canary_run.metrics(found).items():
        unit = next((unit for word, unit in units.items() if word in name), "requests")
        run.metric(name, value, unit=unit, n=requests)
    run.figure(
        "rollouts",
        draw_canaries(found),
        caption="Weight, p99 and accuracy of the new version while the controller looks; it "
        "promotes the good one and sends the slow and the wrong one back.",
    )
