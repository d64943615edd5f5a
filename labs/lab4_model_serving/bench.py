"""The same bundle behind five servers: one run, one machine, one load.

``make bench-lab4``. Each server gets the INT8 bundle, a token check, the same requests, and as many
processes (our own: threads) that run the model; all but "TorchServe as it comes" get the settings
of ``make lab4``: batches of 16, a delay of 1 ms, a queue of 200. What is compared is the highest
Poisson rate whose p99 stays below 50 ms with at most 1 % failed, found by bisection and then
measured anew with other arrivals, the latencies there, and the CPU time of all processes of the
server for 1,000 requests at one common rate. The search is precise to 10 %, so that only a rate
1.1 times another is called higher.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from common.errors import require
from common.process import Child
from common.runner import Claim, Run, main
from labs.lab4_model_serving.bench_servers import (
    AS_IT_COMES,
    OURS,
    SERVERS,
    TUNED,
    Contender,
)

if TYPE_CHECKING:
    from labs.lab4_model_serving.bundle import Bundle
    from labs.lab4_model_serving.load_generator import LoadResult
    from labs.lab4_model_serving.rate_search import FoundRate

P99_LIMIT_MS = 50.0
FAILED_SHARE = 0.01
"""Of the requests that may fail or be refused at a rate that counts, as for the deliverable."""
LEAST_LEAD = 1.1
"""The search ends when its bounds are within 10 %: less than that is no lead."""

CLAIMS = (
    Claim(
        "L4B.ahead_torchserve",
        "highest rate with p99 < 50 ms: the lab's server at least 1.1 times the tuned TorchServe "
        "(rates are found to within 10 %)",
        metric="bench.ahead_of_torchserve_tuned",
        op=">=",
        target=LEAST_LEAD,
    ),
    Claim(
        "L4B.ahead_ray_serve",
        "highest rate with p99 < 50 ms: the lab's server at least 1.1 times Ray Serve "
        "(rates are found to within 10 %)",
        metric="bench.ahead_of_ray_serve",
        op=">=",
        target=LEAST_LEAD,
    ),
    Claim(
        "L4B.ahead_litserve",
        "highest rate with p99 < 50 ms: the lab's server at least 1.1 times LitServe "
        "(rates are found to within 10 %)",
        metric="bench.ahead_of_litserve",
        op=">=",
        target=LEAST_LEAD,
    ),
    Claim(
        "L4B.tuning",
        "highest rate with p99 < 50 ms: TorchServe tuned at least 1.1 times TorchServe as it comes "
        "(rates are found to within 10 %)",
        metric="bench.tuned_over_as_it_comes",
        op=">=",
        target=LEAST_LEAD,
    ),
)


@dataclass(frozen=True)
class Bench:
    """What is served, and how it is loaded."""

    servers: tuple[str, ...] = ()
    """Names of servers, such as "LitServe"; none means all."""
    low: float = 50.0
    """Lowest rate of the search (requests/s)."""
    common_rate: float = 200.0
    """Rate at which the CPU time of every server is taken (requests/s)."""
    high: float = 4000.0
    """Highest rate of the search (requests/s); 0 measures the common rate alone."""
    trial_s: float = 4.0
    """Length of one measurement of the search (s)."""
    confirm_s: float = 20.0
    """Length of the measurement that is reported (s)."""
    precision: float = 0.1
    """The search stops when its bounds are this close (ratio - 1)."""
    warmup_s: float = 8.0
    """Load before anything is counted (s)."""
    workers: int = 0
    """Processes that run the model, for each server (our own: threads); 0 is one a core."""
    epochs: int = 3
    """Of the training, done once; 0 serves random weights, which cost the same."""
    layers: int = 2
    """Of the model."""

    def __post_init__(self) -> None:
        for name in self.servers:
            require(name in SERVERS, "servers", name, f"must be of {list(SERVERS)}")
        for name in ("low", "common_rate", "trial_s", "confirm_s", "precision", "warmup_s"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be > 0")
        require(self.high == 0 or self.high > self.low, "high", self.high, "must be 0 or above low")
        require(self.workers >= 0, "workers", self.workers, "must be >= 0")
        require(self.epochs >= 0, "epochs", self.epochs, "must be >= 0")
        require(1 <= self.layers <= 6, "layers", self.layers, "must be from 1 to 6")


@dataclass(frozen=True)
class Row:
    """One server's line in the table."""

    name: str
    rate: float
    result: LoadResult
    cpu_s_per_1000: float
    at_limit: bool
    trials: tuple[tuple[float, LoadResult], ...]


SCALES = {
    "smoke": Bench(
        common_rate=40.0, high=0.0, trial_s=1.5, warmup_s=0.5, workers=1, epochs=0, layers=1
    ),
    "standard": Bench(),
    "full": Bench(trial_s=10.0, confirm_s=60.0, precision=0.03, epochs=5),
}


def story(run: Run, config: Bench) -> None:
    """Make the bundle, load each server in turn, compare."""
    with run.stage("Make the bundle", key="bundle"):
        bundle, texts = make_bundle(run, config)
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    workers = config.workers or os.cpu_count() or 1
    rows: list[Row] = []
    for name, serve in SERVERS.items():
        if config.servers and name not in config.servers:
            continue
        with (
            run.stage(f"Load: {name}", key=slug(name)),
            serve(bundle, run.dir / "logs" / slug(name), workers) as contender,
        ):
            rows.append(measure(run, config, name, contender, bodies))
    with run.stage("Compare", key="compare"):
        report(run, config, rows)


def slug(name: str) -> str:
    """The name as part of a metric's."""
    return name.lower().replace(" ", "_")


def make_bundle(run: Run, config: Bench) -> tuple[Bundle, list[str]]:
    """The INT8 bundle, and the test texts that are sent to it."""
    from common.data.labelled_texts import read_split
    from labs.lab4_model_serving import classifier
    from labs.lab4_model_serving.bundle import write_bundle
    from labs.lab4_model_serving.quantization import quantize_int8

    split = read_split("auto", seed=run.seed)
    run.data(split.dataset)
    if config.epochs:
        model: Any = classifier.trained(
            split,
            layers=config.layers,
            epochs=config.epochs,
            seed=run.seed,
            progress=lambda steps: run.progress(steps, "training"),
        )
    else:
        from labs.lab4_model_serving.encoder import from_minilm

        model = from_minilm(
            classifier.minilm(), classes=len(split.names), layers=config.layers
        ).eval()
    fp32 = classifier.export(model, run.work / "model.onnx")
    int8 = quantize_int8(fp32, run.work / "model.int8.onnx")
    bundle = write_bundle(
        run.work / "bundle",
        name="intents",
        version="1.0",
        model=int8,
        tokenizer=classifier.minilm() / "tokenizer.json",
        labels=split.names,
        precision="int8",
    )
    return bundle, split.test.texts


def measure(run: Run, config: Bench, name: str, contender: Contender, bodies: list[bytes]) -> Row:
    """Warm up, take the CPU time at the common rate, then find the highest rate."""
    from labs.lab4_model_serving.load_generator import load_http, poisson_schedule

    def load(rate: float, seconds: float, seed: int) -> LoadResult:
        schedule = poisson_schedule(rate, seconds, seed)
        return load_http(contender.url, bodies, schedule, headers=contender.headers)

    load(config.common_rate, config.warmup_s, run.seed + 1)
    before = cpu_seconds(contender.child)
    quiet = load(config.common_rate, config.trial_s, run.seed + 2)
    answered = max(quiet.n - quiet.failed, 1)
    cpu = 1000 * (cpu_seconds(contender.child) - before) / answered
    if not config.high:
        return Row(name, config.common_rate, quiet, cpu, True, ((config.common_rate, quiet),))
    found = search(run, config, name, contender, bodies)
    trials = tuple((trial.rate, trial.result) for trial in found.trials)
    if found.confirmed is None:
        return Row(name, 0.0, found.trials[0].result, cpu, False, trials)
    return Row(name, found.rate, found.confirmed.result, cpu, found.at_limit, trials)


def search(
    run: Run, config: Bench, name: str, contender: Contender, bodies: list[bytes]
) -> FoundRate:
    """The highest rate with p99 below the limit, confirmed."""
    from labs.lab4_model_serving.early_stopping import Slo
    from labs.lab4_model_serving.rate_search import find_rate

    def show(rate: float, result: LoadResult) -> None:
        print(
            f"  {name}: {rate:6.0f}/s, p50 {result.summary.p50_ms:6.1f} ms, "
            f"p99 {result.summary.p99_ms:7.1f} ms, {result.failed} of {result.n} failed",
            flush=True,
        )

    return find_rate(
        contender.url,
        bodies,
        Slo(P99_LIMIT_MS, FAILED_SHARE),
        low=config.low,
        high=config.high,
        headers=contender.headers,
        trial_s=config.trial_s,
        confirm_s=config.confirm_s,
        precision=config.precision,
        seed=run.seed,
        progress=show,
    )


def cpu_seconds(child: Child) -> float:
    """User and system time (s) of every process below a server's guard that runs now."""
    total = 0.0
    for process in psutil.Process(child.pid).children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def report(run: Run, config: Bench, rows: list[Row]) -> None:
    """Metrics, ratios, table and figure."""
    from labs.lab4_model_serving.figures_bench import draw_bench

    for row in rows:
        at = slug(row.name)
        how = "server and generator share cores; " + (
            "highest Poisson rate with p99 < 50 ms and at most 1 % failed, confirmed"
            if config.high
            else "rate offered"
        )
        run.metric(f"{at}.qps", row.rate, unit="1/s", n=row.result.n, how=how)
        run.latency(at, row.result.summary)
        run.metric(f"{at}.failed", row.result.failed, unit="requests", n=row.result.n)
        run.metric(
            f"{at}.cpu_s_per_1000",
            row.cpu_s_per_1000,
            unit="s",
            how="CPU time of all its processes for 1,000 requests, "
            f"at {config.common_rate:g} requests/s",
        )
        if row.at_limit and config.high:
            run.note(f"{row.name} met the limit at the highest rate tried: it may do more.")
    rates = {row.name: row.rate for row in rows}
    pairs = {
        **{f"bench.ahead_of_{slug(name)}": (OURS, name) for name in rates if name != OURS},
        "bench.tuned_over_as_it_comes": (TUNED, AS_IT_COMES),
    }
    for metric, (above, below) in pairs.items():
        if not config.high:
            reason = "this scale loads every server at one low rate; use --scale standard"
            run.metric(metric, None, unit="ratio", reason=reason)
        elif not rates.get(above) or not rates.get(below):
            reason = f"no rate of {above} or of {below} kept p99 below 50 ms, or it was left out"
            run.metric(metric, None, unit="ratio", reason=reason)
        else:
            how = f"highest rate of {above} over that of {below}"
            run.metric(metric, rates[above] / rates[below], unit="ratio", how=how)
    for claim in CLAIMS:
        found = run.results.metrics.get(claim.metric)
        if found is None or found.value is None:
            run.unmeasured(claim.id, found.reason if found else "a server was left out")
    print(table(rows))
    run.figure(
        "bench",
        draw_bench(rows, P99_LIMIT_MS),
        caption="p99 by offered rate, and the CPU time of 1,000 requests, for each server.",
    )


def table(rows: list[Row]) -> str:
    """The rows as text, best first."""
    lines = [
        f"{'server':24} {'1/s':>7} {'p50 ms':>7} {'p99 ms':>7} {'failed':>7} {'CPU s/1000':>11}"
    ]
    for row in sorted(rows, key=lambda row: -row.rate):
        summary = row.result.summary
        lines.append(
            f"{row.name:24} {row.rate:7.0f} {summary.p50_ms:7.1f} {summary.p99_ms:7.1f} "
            f"{row.result.failed:7d} {row.cpu_s_per_1000:11.3f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(
        "lab4_model_serving_bench",
        SCALES,
        story,
        title="Lab 4, benchmark: one bundle behind five servers",
        claims=CLAIMS,
        program="labs.lab4_model_serving.bench",
    )
