"""Lab 4: from a trained model to a served one, and how fast it may be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.runner import Claim, Run, main
from labs.lab4_model_serving.config import SCALES, Config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from labs.lab4_model_serving.load_generator import LoadResult, RateSearch
    from labs.lab4_model_serving.story import Split
    from labs.lab4_model_serving.torchserve import TorchServe

MODEL = "docstring_library"
FP32, INT8 = "1.0", "2.0"

CLAIMS = (
    Claim("L4.latency", "p99 < 50 ms at 1000+ QPS", metric="serving.qps", op=">=", target=1000),
)


def story(run: Run, config: Config) -> None:
    """Train, export, quantize, pack, serve, load."""
    import json

    from labs.lab4_model_serving import text_handler
    from labs.lab4_model_serving.archive import build_archive
    from labs.lab4_model_serving.classifier import export
    from labs.lab4_model_serving.quantization import quantize_int8
    from labs.lab4_model_serving.torchserve import torchserve

    with run.stage("Read the docstrings and train the classifier", key="train"):
        split, model = train_classifier(run, config)
    with run.stage("Export to ONNX and quantize to INT8", key="export"):
        fp32 = export(model, run.work / "fp32" / "classifier.onnx")
        int8 = quantize_int8(fp32, run.work / "int8" / "classifier.onnx")
    with run.stage("Parity, accuracy and size before serving", key="parity"):
        compare(run, model, fp32, int8, split)
    with run.stage("Pack both versions", key="archive"):
        labels = run.work / "labels.json"
        labels.write_text(json.dumps(split.labels), encoding="utf-8")
        handler = file_of(text_handler)
        store = run.work / "model-store"
        archives = [
            build_archive(MODEL, version, handler, [onnx, labels], store)
            for version, onnx in ((FP32, fp32), (INT8, int8))
        ]
    with (
        run.stage("Serve and load", key="serve"),
        torchserve(
            store,
            model_specs(config, archives),
            folder=run.dir / "logs",
            inference_port=config.inference_port,
            queue_size=config.queue_size,
        ) as server,
    ):
        print(f"serving on {server.url}, workers {server.worker_pids()}", flush=True)
        load(run, config, server, split)


def file_of(module: object) -> Path:
    """The source file of a module."""
    from pathlib import Path

    return Path(str(module.__file__))  # type: ignore[attr-defined]


def model_specs(config: Config, archives: Sequence[Path]):  # type: ignore[no-untyped-def]
    """INT8 answers by default; float32 stays loaded, one URL away, for the way back."""
    from labs.lab4_model_serving.torchserve import ModelSpec

    return [
        ModelSpec(
            MODEL,
            archive,
            version,
            workers=config.workers if version == INT8 else 1,
            batch_size=config.batch_size,
            max_batch_delay_ms=config.max_batch_delay_ms,
            default=version == INT8,
        )
        for version, archive in zip((FP32, INT8), archives, strict=True)
    ]


def train_classifier(run: Run, config: Config) -> tuple[Split, torch.nn.Module]:
    """Fit the classifier on docstrings, labelled by the library they come from."""
    from common.data import load
    from labs.lab4_model_serving import classifier
    from labs.lab4_model_serving.story import split_texts

    dataset = load("docstrings")
    run.data(dataset)
    split = split_texts(dataset.table("docstrings"), limit=config.texts, seed=run.seed)
    run.metric("model.classes", len(split.labels), unit="libraries", n=len(split.test_texts))
    model = classifier.train(
        classifier.hash_texts(split.train_texts),
        split.train_labels,
        classes=len(split.labels),
        hidden=config.hidden,
        epochs=config.epochs,
        seed=run.seed,
        device=run.device,
        progress=lambda steps: run.progress(steps, "training"),
    )
    return split, model


def compare(run: Run, model: torch.nn.Module, fp32: Path, int8: Path, split: Split) -> None:
    """The gate: the export answers as PyTorch does, INT8 decides as the export does."""
    import torch

    from common.statistics import bootstrap_ci
    from labs.lab4_model_serving import classifier
    from labs.lab4_model_serving.export import parity, require_parity, session
    from labs.lab4_model_serving.export import run as run_session
    from labs.lab4_model_serving.quantization import size_report

    features = classifier.hash_texts(split.test_texts)
    with torch.no_grad():
        torch_logits = {classifier.OUTPUT: model(torch.from_numpy(features)).numpy()}
    fp32_logits = run_session(session(fp32), {classifier.INPUT: features})
    int8_logits = run_session(session(int8), {classifier.INPUT: features})
    exported = parity(torch_logits, fp32_logits)
    quantized = parity(fp32_logits, int8_logits)
    require_parity(exported, max_abs_error=1e-3)
    require_parity(quantized, min_agreement=0.95)

    n = len(split.test_texts)
    run.metric("parity.max_abs_error", exported.max_abs_error, unit="logit", n=n)
    run.metric("parity.int8_max_abs_error", quantized.max_abs_error, unit="logit", n=n)
    agreement = quantized.argmax_agreement
    run.metric("parity.int8_agreement", agreement, unit="ratio", n=n)
    for name, logits in (("fp32", fp32_logits), ("int8", int8_logits)):
        right = (logits[classifier.OUTPUT].argmax(1) == split.test_labels).astype(float)
        interval = bootstrap_ci(right, seed=run.seed)
        run.metric(f"model.accuracy_{name}", right.mean(), unit="ratio", n=n, ci95=interval)
    size = size_report(fp32, int8)
    run.metric("model.fp32_bytes", size.fp32_bytes, unit="bytes")
    run.metric("model.int8_bytes", size.int8_bytes, unit="bytes")
    run.metric("model.size_ratio", size.ratio, unit="ratio", how="INT8 file / float32 file")


def load(run: Run, config: Config, server: TorchServe, split: Split) -> None:
    """Latency at a modest rate, then the highest rate that keeps p99 below the limit."""
    import json

    from labs.lab4_model_serving import story as plots
    from labs.lab4_model_serving.load_generator import load_http, max_rate, poisson_schedule

    bodies = [json.dumps({"text": text}).encode() for text in split.test_texts[:2000]]
    url = server.prediction_url(MODEL)

    def measure(rate: float, seconds: float = config.search_s, seed: int = run.seed) -> LoadResult:
        schedule = poisson_schedule(rate, seconds, seed)
        result = load_http(url, bodies, schedule, headers=server.headers)
        print(
            f"  {rate:7.0f}/s offered, {result.achieved_rate:7.0f}/s answered, "
            f"p50 {result.summary.p50_ms:6.1f} ms, p99 {result.summary.p99_ms:7.1f} ms, "
            f"{result.failed} failed",
            flush=True,
        )
        return result

    first = server.predict(MODEL, {"text": split.test_texts[0]})
    print(f"one answer: {first}; warming up", flush=True)
    measure(config.rate, 2.0, run.seed + 1)
    modest = measure(config.rate, config.load_s)
    run.latency("serving", modest.summary)
    run.metric("serving.offered_qps", modest.offered_rate, unit="1/s", n=modest.n)
    run.metric("serving.failed", modest.failed, unit="requests", n=modest.n)
    lag_ms = 1000 * plots.quantile(modest.lag, 0.99)
    run.metric("generator.lag_p99_ms", lag_ms, unit="ms", n=modest.n, how="late sends, p99")
    run.figure(
        "latency",
        plots.latency_figure(modest),
        caption=f"Latency at {config.rate:g} requests/s, open loop, from the scheduled time.",
    )
    if config.search_high:
        # The JVM compiles what is hot only under load: cold, it stalls for 100 ms and more.
        measure(config.search_high / 2, 3.0, run.seed + 2)
        search = max_rate(
            measure,
            config.search_low,
            config.search_high,
            p99_limit_ms=config.p99_limit_ms,
            tries=config.search_tries,
        )
        report_search(run, config, search)
    queue_ms = plots.mean_queue_ms(server.metrics())
    run.metric("serving.queue_mean_ms", queue_ms, unit="ms", how="TorchServe's own counters")
    if not config.search_high:
        run.unmeasured("L4.latency", "this scale measures one modest rate; use --scale standard")


def report_search(run: Run, config: Config, search: RateSearch) -> None:
    """Record the highest rate below the limit, and every rate that was tried."""
    from labs.lab4_model_serving import story as plots

    limit = f"p99 < {config.p99_limit_ms:g} ms"
    run.metric(
        "serving.qps",
        search.qps,
        unit="1/s",
        n=search.best.n if search.best else search.tried[0][1].n,
        how=f"highest offered rate with {limit}, answered requests per second",
    )
    if search.best:
        run.latency("serving_at_qps", search.best.summary)
    if search.at_limit:
        run.note(f"The highest rate tried ({config.search_high:g}/s) met {limit}: there is more.")
    if config.p99_limit_ms != 50:
        run.unmeasured("L4.latency", f"the search used {limit}, the claim speaks of 50 ms")
    run.note("Server and load generator shared this machine's cores.")
    run.figure(
        "latency_by_rate",
        plots.rate_figure(search, config.p99_limit_ms),
        caption="p50 and p99 by offered rate; the server saturates where p99 leaves the limit.",
    )


if __name__ == "__main__":
    main(
        "lab4_model_serving",
        SCALES,
        story,
        title="Lab 4: model serving",
        claims=CLAIMS,
        reading=(
            "Dean and Barroso, The Tail at Scale, CACM 2013",
            "MLPerf Inference rules, Server scenario",
            "Jacob et al., Quantization and Training of Neural Networks for Efficient "
            "Integer-Arithmetic-Only Inference, CVPR 2018",
        ),
    )
