"""The last part of the run: balance, scale, break, watch, pay."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from common.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.data.labelled_texts import Part
    from common.runner import Run
    from labs.lab4_model_serving.autoscaler import Policy
    from labs.lab4_model_serving.autoscaling_simulation import SignalName, Simulated
    from labs.lab4_model_serving.bundle import Bundle
    from labs.lab4_model_serving.config import Config
    from labs.lab4_model_serving.rate_search import FoundRate

FAULT_AT_S = 2.0
CUDA_START_S = 15.0
"""A worker that is started anew loads CUDA's libraries: so much longer is watched on a GPU (s)."""
OUTAGE_CLAIMS = ("L4.kill", "L4.drain")


def balance_and_scale(run: Run, config: Config) -> None:
    """What balancers do to a p99, an autoscaler with and without memory, and on TorchServe."""
    from dataclasses import replace

    from labs.lab4_model_serving.autoscaler import Policy, without_hysteresis
    from labs.lab4_model_serving.autoscaling_simulation import arrivals, simulate, step_load
    from labs.lab4_model_serving.balancing import compare_balancing
    from labs.lab4_model_serving.figures_scaling import draw_balancers, draw_controllers

    balanced = compare_balancing(seed=run.seed)
    for each in balanced:
        slug = each.name.replace(" ", "_")
        run.metric(
            f"balancing.p99_{slug}",
            each.p99,
            unit="service times",
            n=len(each.latencies),
            how="simulated",
        )
    p99 = {each.name.replace(" ", "_"): each.p99 for each in balanced}
    run.metric(
        "balancing.ratio",
        p99["least_connections"] / p99["round_robin"],
        unit="ratio",
        how="p99 of least connections over round robin, simulated",
    )
    run.figure(
        "balancers",
        draw_balancers(balanced),
        caption="Share of requests that take longer; one replica of eight is a quarter slower "
        "(simulated).",
    )
    times = arrivals(step_load(15, 80, start_s=120, end_s=420), 600, highest=80, seed=run.seed)
    policy = Policy(target=2.0, min_replicas=2, max_replicas=20, down_window_s=120)

    def simulated(policy: Policy, signal: SignalName = "in_flight") -> Simulated:
        return simulate(times, policy, service_s=0.1, seconds=600, cold_start_s=10, signal=signal)

    cases = {
        "with memory": simulated(policy),
        "without memory": simulated(without_hysteresis(policy)),
        "on a rate with a ceiling": simulated(replace(policy, target=11.0), "served_rate"),
    }
    for name, case in cases.items():
        slug = name.replace(" ", "_")
        run.metric(f"autoscaling.{slug}_reversals", case.trace.reversals, unit="changes")
        run.metric(
            f"autoscaling.{slug}_within_1s", case.share_within(1000), unit="ratio", n=len(times)
        )
    run.metric(
        "autoscaling.reversals_ratio",
        cases["with memory"].trace.reversals / max(1, cases["without memory"].trace.reversals),
        unit="ratio",
        how="with memory over without, simulated",
    )
    run.figure(
        "controllers",
        draw_controllers(cases),
        caption="One load, three controllers (simulated): with memory, without, and on a signal "
        "that the servers themselves cap.",
    )
    if config.scaling_s:
        scale_torchserve(run, config)


def scale_torchserve(run: Run, config: Config) -> None:
    """The controller changes the number of TorchServe's workers while requests come."""
    from labs.lab4_model_serving.archive import build_archive
    from labs.lab4_model_serving.autoscaler import Policy
    from labs.lab4_model_serving.autoscaling_run import (
        WAITING_HANDLER,
        TorchServeWorkers,
        autoscale_under_load,
    )
    from labs.lab4_model_serving.autoscaling_simulation import arrivals, step_load
    from labs.lab4_model_serving.figures_scaling import draw_autoscaling
    from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

    store = run.work / "waiting"
    archive = build_archive("waiting", "1.0", WAITING_HANDLER, [], store)
    seconds = config.scaling_s
    load = step_load(20, 120, start_s=0.1 * seconds, end_s=0.6 * seconds)
    schedule = arrivals(load, seconds, highest=120, seed=run.seed)
    with torchserve(
        store,
        [ModelSpec("waiting", archive)],
        folder=run.dir / "logs" / "scaling",
        queue_size=500,
    ) as server:
        scaled = autoscale_under_load(
            TorchServeWorkers(server, "waiting", "1.0"),
            Policy(target=4, max_replicas=4, down_window_s=3, period_s=2),
            server.prediction_url("waiting"),
            [b'{"wait": 1}'],
            schedule,
            headers=server.headers,
        )
    most = int(scaled.trace.ready.max())
    run.metric("torchserve_scaling.max_workers", most, unit="workers", n=len(schedule))
    run.metric("torchserve_scaling.failed", scaled.load.failed, unit="requests", n=len(schedule))
    asked = scaled.trace.time_s[scaled.trace.replicas >= 2]
    ready = scaled.seconds_to(2)
    cold = ready - float(asked[0]) if ready is not None and len(asked) else None
    run.metric(
        "torchserve_scaling.cold_start_s",
        cold,
        unit="s",
        reason="" if cold is not None else "no second worker was ready",
    )
    run.figure(
        "autoscaling",
        draw_autoscaling(scaled.trace),
        caption="TorchServe's workers under a step of load: they are asked for at once, and users "
        "feel how long one takes to start.",
    )


def break_things(run: Run, config: Config, bundle: Bundle, part: Part) -> None:
    """Kill a worker, then the JVM, under load; kill and drain a replica behind nginx."""
    from common.ports import free_port
    from labs.lab4_model_serving import faults
    from labs.lab4_model_serving.archive import archive_bundle
    from labs.lab4_model_serving.predictor import Predictor
    from labs.lab4_model_serving.serving_stages import START_S
    from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

    store = run.work / "faults"
    spec = ModelSpec(
        bundle.name, archive_bundle(bundle, store), bundle.version, batch_size=8, workers=2
    )
    port = free_port()
    on_gpu = run.device == "cuda"
    expected = faults.expected_labels(Predictor(bundle, device=run.device), part.texts[:500])
    folder = run.dir / "logs" / "faults"
    wrong: list[int] = []
    with faults.keep_running(
        lambda: torchserve(
            store,
            [spec],
            folder=folder,
            inference_port=port,
            gpus=int(on_gpu),
            start_timeout=START_S[run.device],
        )
    ) as kept:
        url = kept.server.prediction_url(bundle.name)

        def through(name: str, fault: Callable[[], object]) -> None:
            report = faults.load_through_fault(
                url,
                lambda: kept.headers,
                expected,
                fault,
                name=name,
                rate=100.0,
                seconds=config.faults_s + CUDA_START_S * on_gpu,
                at_s=FAULT_AT_S,
                seed=run.seed,
                restarts=lambda: kept.restarts,
            )
            wrong.append(report.wrong)
            back = report.recovered_s is not None
            within = f"seen for {report.watched_s:.1f} s after the kill"
            run.metric(f"faults.{name}_failed", report.failed, unit="requests", n=report.requests)
            run.metric(f"faults.{name}_wrong", report.wrong, unit="answers", n=report.requests)
            run.metric(
                f"faults.{name}_back", int(back), unit="1 or 0", n=report.requests, how=within
            )
            run.metric(
                f"faults.{name}_recovered_s",
                report.recovered_s,
                unit="s",
                how=within,
                reason="" if back else f"more than {report.largest_recovery_s:.1f} s",
            )
            print(f"  {name}: {report}", flush=True)

        through("worker", lambda: faults.kill_worker(kept.server, bundle.name))
        through("jvm", lambda: faults.kill_server(kept.server))
    run.metric("faults.wrong", sum(wrong), unit="answers")
    replicas(run, bundle)


def replicas(run: Run, bundle: Bundle) -> None:
    """Three replicas behind a real nginx: one is killed, killed without repeats, drained."""
    from labs.lab4_model_serving.figures_scaling import draw_outages
    from labs.lab4_model_serving.outages import compare_outages
    from labs.lab4_model_serving.replicas import echo_replica

    try:
        cases = compare_outages(
            echo_replica(service_ms=20, concurrency=20),
            f"/predictions/{bundle.name}",
            [json.dumps({"text": f"request {i}"}).encode() for i in range(100)],
            folder=run.dir / "logs" / "outages",
            seed=run.seed,
        )
    except InputError as error:
        for claim in OUTAGE_CLAIMS:
            run.unmeasured(claim, str(error))
        return
    for case, slug in zip(cases, ("killed", "killed_no_repeats", "drained"), strict=True):
        lost, n = case.outage.lost, case.outage.load.n
        how = "three echo replicas of 20 ms; the client repeats once on a closed connection"
        run.metric(f"outages.{slug}_lost", lost, unit="requests", n=n, how=how)
        run.metric(f"outages.{slug}_sent_again", case.outage.sent_again, unit="requests", n=n)
    run.figure(
        "outages",
        draw_outages(cases),
        caption="Three replicas (each waits 20 ms, then answers) behind nginx: one killed, one "
        "killed without repeats, one drained.",
    )


def generator(run: Run) -> None:
    """How many requests a second the load generator itself can send, on one core."""
    from labs.lab4_model_serving.calibration import calibrate

    found = (
        calibrate(low=2000, high=8000, seconds=0.2, refinements=0)
        if run.scale == "smoke"
        else calibrate()
    )
    run.metric(
        "generator.capacity",
        found.rate,
        unit="1/s",
        n=len(found.tried),
        how="highest rate to a trivial server that it keeps up with",
    )
    omission(run)


def omission(run: Run) -> None:
    """One stall of half a second, seen by a closed loop, its correction, and an open loop."""
    from labs.lab4_model_serving.closed_loop import one_stall
    from labs.lab4_model_serving.figures_load import draw_percentiles

    closed, corrected, opened = one_stall(seed=run.seed)
    run.metric("load.closed_p99_ms", closed.summary.p99_ms, unit="ms", n=closed.n)
    run.metric("load.open_p99_ms", opened.summary.p99_ms, unit="ms", n=opened.n)
    run.figure(
        "coordinated_omission",
        draw_percentiles(
            {
                "closed loop": closed.latencies,
                "closed loop, corrected": corrected,
                "open loop": opened.latencies,
            }
        ),
        caption="A server stalls once for half a second. A closed loop stops asking meanwhile; an "
        "open loop sees everyone who came.",
    )


def watch(run: Run) -> None:
    """What a histogram, a fleet and an alert get right, and a real Prometheus beside them."""
    from labs.lab4_model_serving.figures_monitoring import (
        draw_bucket_error,
        draw_burn_rate,
        draw_fleet_p99,
    )
    from labs.lab4_model_serving.monitoring_study import monitoring_study

    small = run.scale == "smoke"
    study = (
        monitoring_study(None, n=2000, points=40)
        if small
        else monitoring_study(run.dir / "logs" / "prometheus")
    )
    for name, value in study.metrics.items():
        run.metric(name, value, unit="us" if name.endswith("_us") else "ratio")
    if "monitoring.prometheus_difference" not in study.metrics:
        why = "this scale leaves Prometheus out" if small else "prometheus is not installed"
        run.unmeasured("L4.histogram", why)
    run.figure(
        "buckets",
        draw_bucket_error(study.buckets),
        caption="The p99 that a histogram reports, and its worst error by number of bounds.",
    )
    run.figure(
        "fleet",
        draw_fleet_p99(study.fleet),
        caption="One slow replica of four: the mean of p99s hardly moves, added buckets follow.",
    )
    run.figure(
        "burn_rate",
        draw_burn_rate(study.incidents),
        caption="A blip and an outage through both windows of the fast page.",
    )


def pay(run: Run, served: FoundRate) -> None:
    """What a million requests cost at the rate that was measured, by an editable price table."""
    from labs.lab4_model_serving.cost import PRICES, fleet_cost, like_this, read_prices
    from labs.lab4_model_serving.deployment import this_machine

    prices = read_prices()
    gpus = [each["name"] for each in run.results.hardware["gpus"] if run.device == "cuda"]
    gpu = f"{len(gpus)} x {gpus[0]}" if len(gpus) > 1 else "".join(gpus)
    cores = this_machine().cpus
    instance = like_this(prices, cpus=cores, gpu=gpu)
    why = ""
    if not served.confirmed:
        why = "no rate was confirmed, so no machine is known to suffice"
    elif instance is None:
        why = f"{PRICES.name} has no machine with {gpu or f'{cores:g} cores'}: add yours"
    if why or instance is None:
        run.metric("cost.per_million", None, unit=prices.currency, reason=why)
        return
    fleet = fleet_cost(
        peak_rate=20_000, mean_rate=8_000, replica_qps=served.rate, hourly=instance.hourly
    )
    how = f"{instance.name}, {instance.hourly:g} {prices.currency}/h, peak 20,000/s, mean 8,000/s"
    run.metric("cost.replicas", fleet.replicas, unit="machines", how=how)
    run.metric("cost.per_million", fleet.per_million, unit=prices.currency, how=how)
