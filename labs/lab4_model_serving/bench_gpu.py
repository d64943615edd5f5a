"""One classifier on the accelerator: batch curve by precision, direct and behind TorchServe.

``python -m labs.lab4_model_serving.bench_gpu``. A GPU takes nearly as long for one text as for a
hundred, so two questions decide what it serves: how large the batches are, and who makes them. The
first part feeds batches straight to the session, from raw text to label, at sizes from 1 up, with
one thread and with several (while the GPU computes one batch, others are tokenized). The second
puts the same bundle behind TorchServe, whose front end makes the batches, and finds the highest
Poisson rate whose p99 stays below 50 ms. On a CPU the same program runs, for comparison.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import require
from common.runner import Claim, Run, main

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from common.data.labelled_texts import Part, Split
    from labs.lab4_model_serving.bundle import Bundle
    from labs.lab4_model_serving.predictor import Predictor
    from labs.lab4_model_serving.torchserve import TorchServe

P99_LIMIT_MS = 50.0
FAILED_SHARE = 0.01
CLAIMS = (
    Claim(
        "L4G.direct",
        "10,000+ texts/s straight to the model in batches, p99 of a batch < 50 ms",
        metric="direct.best_qps",
        op=">=",
        target=10_000,
    ),
    Claim(
        "L4G.served",
        "1000+ requests/s through TorchServe with p99 < 50 ms",
        metric="torchserve.qps",
        op=">=",
        target=1000,
    ),
    Claim(
        "L4G.accuracy",
        "half precision costs at most .002 in accuracy",
        metric="accuracy.fp16_drop",
        op="<=",
        target=0.002,
    ),
)


@dataclass(frozen=True)
class Bench:
    """What is served, and how it is loaded."""

    layers: int = 2
    """Of MiniLM."""
    epochs: int = 2
    """Of the training; 0 serves random weights, which cost the same."""
    judged: int = 4500
    """Test texts at most."""
    batches: tuple[int, ...] = (1, 8, 32, 64, 128, 256, 512)
    """Batch sizes of the curve."""
    threads: tuple[int, ...] = (1, 4)
    """Threads that each tokenize a batch and run it."""
    seconds: float = 2.0
    """Length of each point of the curve (s)."""
    workers: tuple[int, ...] = (1, 4)
    """TorchServe workers that share the GPU, one search each."""
    max_batch: int = 64
    """Batch size of TorchServe."""
    low: float = 250.0
    """Lowest rate of the search (requests/s)."""
    high: float = 12_000.0
    """Highest rate of the search (requests/s)."""
    trial_s: float = 3.0
    """Length of one trial (s)."""
    confirm_s: float = 20.0
    """Length of the confirming run (s)."""

    def __post_init__(self) -> None:
        for name in ("batches", "threads", "workers"):
            values = getattr(self, name)
            require(bool(values) and min(values) >= 1, name, values, "must be numbers from 1")
        require(self.seconds > 0, "seconds", self.seconds, "must be > 0")
        require(self.high > self.low > 0, "high", self.high, f"must be above low = {self.low}")


SCALES = {
    "smoke": Bench(
        layers=1,
        epochs=0,
        judged=200,
        batches=(1, 32),
        threads=(1, 2),
        seconds=0.2,
        workers=(1,),
        low=20.0,
        high=40.0,
        trial_s=1.0,
        confirm_s=1.0,
    ),
    "standard": Bench(),
    "full": Bench(seconds=5.0, trial_s=5.0, confirm_s=60.0),
}


@dataclass(frozen=True)
class Point:
    """One batch size, precision and number of threads."""

    precision: str
    batch: int
    threads: int
    n: int
    """Batches that were timed."""
    qps: float
    """Texts a second, from raw text to label."""
    p50_ms: float
    p99_ms: float
    """Of a batch."""


def story(run: Run, config: Bench) -> None:
    """Train, convert, measure straight, serve."""
    from labs.lab4_model_serving.predictor import Predictor

    with run.stage("Train the classifier, convert it to half precision", key="bundles"):
        split, bundles = make_bundles(run, config)
    part = split.test.head(config.judged)
    opened = {name: Predictor(bundle, device=run.device) for name, bundle in bundles.items()}
    with run.stage("Accuracy of each precision on this device", key="accuracy"):
        judge(run, opened, part)
    with run.stage("Straight to the model: texts to labels, by batch size", key="direct"):
        points = [
            point(name, opened[name], part.texts, batch, threads, config.seconds)
            for name in opened
            for threads in config.threads
            for batch in config.batches
        ]
        report_direct(run, points)
    with run.stage("Behind TorchServe", key="torchserve"):
        serve(run, config, bundles["fp16" if run.device == "cuda" else "fp32"], part)


def make_bundles(run: Run, config: Bench) -> tuple[Split, dict[str, Bundle]]:
    """The classifier as a bundle of each precision."""
    from common.data.labelled_texts import read_split
    from labs.lab4_model_serving import classifier
    from labs.lab4_model_serving.bundle import write_bundle
    from labs.lab4_model_serving.encoder import from_minilm
    from labs.lab4_model_serving.fusion import fuse
    from labs.lab4_model_serving.half_precision import half_precision

    split = read_split("auto", seed=run.seed)
    run.data(split.dataset)
    if config.epochs:
        model = classifier.trained(
            split, layers=config.layers, epochs=config.epochs, seed=run.seed, device=run.device,
            progress=lambda steps: run.progress(steps, "training"),
        )  # fmt: skip
    else:
        model = from_minilm(
            classifier.minilm(), classes=len(split.names), layers=config.layers
        ).eval()
    exported = classifier.export(model, run.work / "model.onnx")
    files = {"fp32": run.work / "fused.onnx", "fp16": run.work / "half.onnx"}
    fuse(exported, files["fp32"], heads=model.heads, width=model.words.embedding_dim)
    half_precision(files["fp32"], files["fp16"])
    return split, {
        name: write_bundle(
            run.work / name,
            name="intents",
            version="1.0",
            model=path,
            tokenizer=classifier.minilm() / "tokenizer.json",
            labels=split.names,
            precision=name,
        )
        for name, path in files.items()
    }


def judge(run: Run, opened: dict[str, Predictor], part: Part) -> None:
    """Accuracy of each precision, paired by text."""
    from labs.lab4_model_serving.paired_accuracy import paired_accuracy

    found = {
        name: np.concatenate(
            [each.logits(each.encode(part.texts[at : at + 64])) for at in range(0, len(part), 64)]
        )
        for name, each in opened.items()
    }
    pair = paired_accuracy(found["fp32"], found["fp16"], part.labels)
    for name, value in (("fp32", pair.reference), ("fp16", pair.candidate)):
        run.metric(f"accuracy.{name}", value, unit="ratio", n=pair.n)
    run.metric(
        "accuracy.fp16_drop",
        pair.drop,
        unit="ratio",
        n=pair.n,
        ci95=pair.ci95,
        how="paired by text",
    )
    worst = float(np.abs(found["fp32"] - found["fp16"]).max())
    run.metric("accuracy.fp16_max_logit_error", worst, unit="logit", n=pair.n)


def point(
    name: str, opened: Predictor, texts: Sequence[str], batch: int, threads: int, seconds: float
) -> Point:
    """Run batches of random texts for some seconds, as fast as they go (closed loop)."""
    rng = np.random.default_rng(batch)
    chosen = [[texts[i] for i in rng.integers(0, len(texts), batch)] for _ in range(64)]
    for each in chosen[:8]:  # memory and kernels of these shapes
        opened.predict(each)
    times: list[float] = []
    start = time.perf_counter()

    def work(first: int) -> None:
        at = first
        while time.perf_counter() - start < seconds:
            began = time.perf_counter()
            opened.predict(chosen[at % len(chosen)])
            times.append(time.perf_counter() - began)
            at += threads

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    spent = time.perf_counter() - start
    p50, p99 = 1000 * np.percentile(times, [50, 99])
    n = len(times)
    return Point(name, batch, threads, n, n * batch / spent, float(p50), float(p99))


def report_direct(run: Run, points: Sequence[Point]) -> None:
    """Every point, and the best whose p99 keeps the limit."""
    how = "closed loop, raw text to label, {} thread(s)"
    for each in points:
        area = f"direct.{each.precision}.threads_{each.threads}.batch_{each.batch}"
        run.metric(f"{area}.qps", each.qps, unit="1/s", n=each.n, how=how.format(each.threads))
        run.metric(f"{area}.p50_ms", each.p50_ms, unit="ms", n=each.n)
        run.metric(f"{area}.p99_ms", each.p99_ms, unit="ms", n=each.n)
        print(
            f"  {each.precision} batch {each.batch:4} x {each.threads} thread(s): "
            f"{each.qps:9,.0f}/s, p50 {each.p50_ms:6.2f} ms, p99 {each.p99_ms:6.2f} ms",
            flush=True,
        )
    kept = [each for each in points if each.p99_ms < P99_LIMIT_MS]
    if kept:
        best = max(kept, key=lambda each: each.qps)
        run.metric(
            "direct.best_qps", best.qps, unit="1/s", n=best.n,
            how=f"{best.precision}, batches of {best.batch}, {best.threads} thread(s), p99 "
            f"{best.p99_ms:.1f} ms",
        )  # fmt: skip
    else:
        why = f"no batch size kept p99 below {P99_LIMIT_MS:g} ms"
        run.metric("direct.best_qps", None, unit="1/s", reason=why)
    run.figure(
        "batch_curve", draw_curve(points),
        caption="Texts a second from raw text to label, by batch size, precision and threads.",
    )  # fmt: skip


def draw_curve(points: Sequence[Point]) -> Figure:
    """Rate and batch latency by batch size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    rate, latency = figure.subplots(1, 2)
    for name, threads in sorted({(each.precision, each.threads) for each in points}):
        line = [each for each in points if (each.precision, each.threads) == (name, threads)]
        sizes, label = [each.batch for each in line], f"{name}, {threads} thread(s)"
        rate.plot(sizes, [each.qps for each in line], marker="o", label=label)
        latency.plot(sizes, [each.p99_ms for each in line], marker="o", label=label)
    latency.axhline(P99_LIMIT_MS, color="0.5", linestyle="--", linewidth=1)
    for axes, what in ((rate, "texts a second"), (latency, "p99 of a batch (ms)")):
        axes.set(xlabel="batch size", ylabel=what, xscale="log", yscale="log")
        axes.grid(alpha=0.3)
    rate.legend(frameon=False, fontsize=8)
    return figure


def serve(run: Run, config: Bench, bundle: Bundle, part: Part) -> None:
    """The highest rate of TorchServe with one and with several workers on the device."""
    from labs.lab4_model_serving.early_stopping import Slo
    from labs.lab4_model_serving.load_generator import LoadResult, load_http, poisson_schedule
    from labs.lab4_model_serving.rate_search import find_rate

    bodies = [json.dumps({"text": text}).encode() for text in part.texts]
    best = None

    def said(rate: float, result: LoadResult) -> None:
        summary = result.summary
        print(
            f"  {rate:7.0f}/s offered, {result.achieved_rate:7.0f}/s answered, "
            f"p99 {summary.p99_ms:7.1f} ms, {result.failed} failed",
            flush=True,
        )

    for workers in config.workers:
        with torchserve_on_device(run, config, bundle, workers) as server:
            url = server.prediction_url(bundle.name)
            warm = poisson_schedule(4 * config.low, 2 * config.trial_s, 1)
            load_http(url, bodies, warm, headers=server.headers)
            found = find_rate(
                url, bodies, Slo(P99_LIMIT_MS, FAILED_SHARE), low=config.low, high=config.high,
                headers=server.headers, trial_s=config.trial_s, confirm_s=config.confirm_s,
                precision=0.1, seed=run.seed, progress=said,
            )  # fmt: skip
        area = f"torchserve.workers_{workers}"
        run.metric(
            f"{area}.qps", found.rate, unit="1/s",
            how=f"highest Poisson rate with p99 < {P99_LIMIT_MS:g} ms, measured anew",
        )  # fmt: skip
        if found.confirmed:
            run.latency(area, found.confirmed.result.summary)
            busy = found.confirmed.result.busy
            run.metric(f"{area}.generator_busy", busy, unit="ratio", how="of one core")
        if found.at_limit:
            run.note(f"{workers} worker(s) held the highest rate that was tried: they may do more.")
        if best is None or found.rate > best[1].rate:
            best = workers, found
    assert best is not None
    how = f"{best[0]} worker(s), {bundle.precision}, batches of at most {config.max_batch}"
    run.metric("torchserve.qps", best[1].rate, unit="1/s", how=how)


@contextmanager
def torchserve_on_device(
    run: Run, config: Bench, bundle: Bundle, workers: int
) -> Iterator[TorchServe]:
    """TorchServe with the bundle; all workers share one GPU where there is one."""
    from labs.lab4_model_serving.archive import archive_bundle
    from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

    store = Path(run.work / f"store-{workers}")
    spec = ModelSpec(
        bundle.name, archive_bundle(bundle, store), bundle.version, workers=workers,
        batch_size=config.max_batch, max_batch_delay_ms=1, default=True,
    )  # fmt: skip
    with torchserve(
        store, [spec], folder=run.dir / "logs" / f"torchserve-{workers}", queue_size=1000,
        gpus=1 if run.device == "cuda" else 0, start_timeout=120,
    ) as server:  # fmt: skip
        yield server


if __name__ == "__main__":
    main(
        "lab4_model_serving_bench_gpu",
        SCALES,
        story,
        title="Lab 4, benchmark: the classifier on the accelerator",
        claims=CLAIMS,
        program="labs.lab4_model_serving.bench_gpu",
    )
