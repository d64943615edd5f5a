"""The first half of the run: train, convert, prove equal, quantize, climb the ladder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from common.data.labelled_texts import Part, Split
    from common.runner import Run
    from labs.lab4_model_serving.bundle import Bundle
    from labs.lab4_model_serving.config import Config
    from labs.lab4_model_serving.encoder import TextClassifier
    from labs.lab4_model_serving.ladder import Rung
    from labs.lab4_model_serving.parity_report import Artefact
    from labs.lab4_model_serving.tokens import Tokens

NAME = "intents"
FP32_VERSION, SERVED_VERSION = "1.0", "2.0"
EAGER, FROZEN, ONNX, FUSED, INT8 = "eager", "frozen", "ONNX", "ONNX fused", "INT8"
HALF = "fp16"
SERVED = {"fp32": FUSED, "int8": INT8, "fp16": HALF}
"""Precision to the form that is served."""
REDUCED = (INT8, HALF)
"""Other numbers than the trained model's, on purpose: judged by accuracy, not by logits."""
BATCH = 32
RUNG_TEXTS = 1500  # that the accuracy of a rung is measured on
RUNG_HIGH = 8000.0
"""One event loop that answers as well offers no more (requests/s)."""


@dataclass(frozen=True)
class Trained:
    """The model, its texts, and those that accuracy is measured on with their token ids."""

    split: Split
    model: TextClassifier
    tokens: Tokens
    judged: Part
    ids: list[list[int]]


def train(run: Run, config: Config) -> Trained:
    """Fine-tune MiniLM's first layers on the texts, or take the cached weights."""
    from common.data.labelled_texts import read_split
    from labs.lab4_model_serving import classifier
    from labs.lab4_model_serving.tokens import Tokens

    split = read_split(config.source, limit=config.texts, seed=run.seed)
    run.data(split.dataset)
    run.note(f"The texts are {split.dataset.entry.title} ({len(split.train):,} to train on).")
    model = classifier.trained(
        split,
        layers=config.layers,
        epochs=config.epochs,
        max_tokens=config.max_tokens,
        seed=run.seed,
        device=run.device,
        progress=lambda steps: run.progress(steps, "training"),
    )
    tokens = Tokens(classifier.minilm() / "tokenizer.json", config.max_tokens)
    judged = split.test.head(config.judged)
    run.metric("model.classes", len(split.names), unit="labels", n=len(split.train))
    run.metric("model.parameters", sum(p.numel() for p in model.parameters()), unit="weights")
    return Trained(split, model, tokens, judged, tokens.ids(judged.texts))


def convert(run: Run, config: Config, trained: Trained) -> dict[str, Artefact]:
    """TorchScript, ``torch.export``, ONNX, fused ONNX and INT8, each written and read back.

    All answer on one CPU core, but for float16, which is made where it is served and answers on
    the device that serves it.
    """
    import torch

    from labs.lab4_model_serving import classifier
    from labs.lab4_model_serving.artefacts import build_artefacts, onnx_artefact
    from labs.lab4_model_serving.half_precision import half_precision
    from labs.lab4_model_serving.parity_report import QUANTIZED
    from labs.lab4_model_serving.quantization import operator_counts, quantize_int8

    torch.set_num_threads(1)  # as a server's worker, so that the rungs can be compared
    onnx = classifier.export(trained.model, run.work / "model.onnx")
    found = {each.name: each for each in build_artefacts(trained.model, onnx, run.work)}
    fused = path_of(found[FUSED])
    # Fused first: what is quantized then are half as many nodes.
    int8 = quantize_int8(fused, run.work / "int8.onnx")
    found[INT8] = onnx_artefact(INT8, int8, QUANTIZED)
    if config.served == "fp16":
        half = half_precision(fused, run.work / "half.onnx")
        found[HALF] = onnx_artefact(HALF, half, QUANTIZED, device=run.device)
    for name, path in (("exported", onnx), ("fused", fused), ("int8", int8)):
        run.metric(f"onnx.nodes_{name}", operator_counts(path).total(), unit="nodes")
    return found


def path_of(artefact: Artefact) -> Path:
    """The file of an artefact that has one."""
    assert artefact.path is not None, artefact.name
    return artefact.path


def parity(run: Run, trained: Trained, artefacts: Mapping[str, Artefact]) -> None:
    """The gate: whatever claims to be the model answers as it does, at every shape."""
    from labs.lab4_model_serving.figures_runtime import draw_parity
    from labs.lab4_model_serving.parity_report import parity_report, require_report, shape_cases
    from labs.lab4_model_serving.tokens import pad

    ids = trained.ids[:1000]
    n = len(ids)
    cases = shape_cases(trained.model.words.num_embeddings, max_tokens=trained.tokens.max_tokens)
    report = parity_report(
        artefacts[EAGER].predict,
        list(artefacts.values()),
        cases=cases,
        batches=[pad(ids[at : at + BATCH]) for at in range(0, n, BATCH)],
        labels=trained.judged.labels[:n],
    )
    exact = [each for each in report if each.name not in REDUCED]
    require_report(exact)
    for each in report:
        slug = re.sub(r"\W+", "_", each.name.lower())
        run.metric(f"parity.{slug}_max_abs_error", each.max_abs_error, unit="logit", n=n)
        run.metric(f"parity.{slug}_agreement", each.agreement, unit="ratio", n=n)
    worst = max(each.max_abs_error for each in exact)
    how = f"over {len(exact)} float forms, {len(cases)} shapes and the texts"
    run.metric("parity.max_abs_error", worst, unit="logit", n=n, how=how)
    run.figure(
        "parity",
        draw_parity(report),
        caption="Every form of the model against eager PyTorch, at every shape: the largest error "
        "of a logit; and its accuracy.",
    )


def runtime(run: Run, trained: Trained, artefacts: Mapping[str, Artefact]) -> None:
    """What ONNX Runtime makes of the graph, and where the time of a run goes."""
    from labs.lab4_model_serving.figures_runtime import draw_operator_times, draw_optimized_graphs
    from labs.lab4_model_serving.ort_options import optimized_graphs
    from labs.lab4_model_serving.ort_profile import profile_model
    from labs.lab4_model_serving.tokens import pad

    paths = {name: path_of(artefacts[name]) for name in (ONNX, FUSED, INT8)}
    run.figure(
        "graphs",
        draw_optimized_graphs({name: optimized_graphs(path) for name, path in paths.items()}),
        caption="Nodes that run at each level of ONNX Runtime's own optimization.",
    )
    inputs = [pad(trained.ids[at : at + 8]) for at in range(0, min(360, len(trained.ids)), 8)]
    folder = run.dir / "logs" / "profiles"
    profiles = [profile_model(path, inputs, folder, name=name) for name, path in paths.items()]
    run.figure(
        "operators",
        draw_operator_times(profiles),
        caption="Time of one run over 8 texts by operator on one CPU core, from ONNX Runtime's own "
        "profile.",
    )


def precisions(
    run: Run, config: Config, trained: Trained, artefacts: Mapping[str, Artefact]
) -> None:
    """Precision by batch size, and accuracy beside speed beside size."""
    from labs.lab4_model_serving.figures_quantization import (
        draw_accuracy_and_size,
        draw_crossover,
    )
    from labs.lab4_model_serving.paired_accuracy import compare_accuracy
    from labs.lab4_model_serving.precision_crossover import (
        build_precisions,
        measure_crossover,
        text_batcher,
    )
    from labs.lab4_model_serving.static_quantization import calibration_batches

    texts = trained.split.train.texts[: min(256, config.judged)]
    calibration = calibration_batches(trained.tokens.ids(texts))
    made = build_precisions(path_of(artefacts[ONNX]), run.work / "precisions", calibration)
    built: dict[str, Path] = {str(name): path for name, path in made.items()}
    n = min(2000, len(trained.ids))
    rows = compare_accuracy(built, trained.ids[:n], trained.judged.labels[:n])
    for row in rows:
        area = f"precision.{row.precision}"
        run.metric(f"{area}_accuracy", row.accuracy, unit="ratio", n=n, ci95=row.ci95)
        run.metric(f"{area}_bytes", row.bytes, unit="bytes")
    crossover = measure_crossover(
        built,
        text_batcher(trained.ids, max(config.crossover_batches)),
        batches=config.crossover_batches,
        rounds=config.crossover_rounds,
    )
    for batch in crossover.batches:
        for precision in crossover.precisions:
            cell = crossover.cell(precision, batch)
            run.metric(
                f"precision.{precision}_us_batch_{batch}",
                cell.median_us,
                unit="us",
                n=cell.rounds,
                how="median over rounds, an item, one CPU core",
            )
    run.figure(
        "crossover",
        draw_crossover(crossover),
        caption="Microseconds a text by precision and batch size on one CPU core, median and "
        "quartiles.",
    )
    run.figure(
        "precisions",
        draw_accuracy_and_size(rows),
        caption="What each precision costs in accuracy, paired by text, and saves in bytes.",
    )


def climb(
    run: Run, config: Config, trained: Trained, artefacts: Mapping[str, Artefact]
) -> list[Rung]:
    """Forms of the model, alone and then batched: accuracy, size, latency, rate in the SLO.

    All on the run's device: those that a GPU cannot run are left out, and the report says so.
    """
    from labs.lab4_model_serving.device_stages import on_device
    from labs.lab4_model_serving.ladder import Step, measure
    from labs.lab4_model_serving.tokens import pad

    served = SERVED[config.served]
    forms = on_device(trained, artefacts, served, run.device)

    def step(name: str, form: str, max_batch: int = 1) -> Step:
        predict, path = forms[form].predict, forms[form].path
        weights = sum(4 * p.numel() for p in trained.model.parameters())
        return Step(
            name,
            lambda texts: predict(pad(trained.tokens.ids(texts))),
            path.stat().st_size if path else weights,
            max_batch=max_batch,
        )

    names = {EAGER: "eager PyTorch", FROZEN: "TorchScript"}
    steps = [
        step(names.get(form, form), form)
        for form in dict.fromkeys((EAGER, FROZEN, ONNX, FUSED, served))
        if form in forms
    ]
    steps.append(step(f"{served} batched", served, config.batch_size))
    rungs = []
    high = min(config.search_high, RUNG_HIGH)
    for each in steps:
        rung = measure(
            each,
            trained.judged.head(RUNG_TEXTS),
            low=min(config.search_low, high) / 2,
            high=high,
            p99_limit_ms=config.p99_limit_ms,
            trial_s=config.ladder_s,
            tries=config.ladder_tries,
            singles=30 if config.ladder_s < 1 else 300,
            seed=run.seed,
        )
        print(
            f"  {rung.name:16} accuracy {rung.accuracy:.4f}, p50 {rung.latency.p50_ms:6.2f} ms, "
            f"p99 {rung.latency.p99_ms:6.2f} ms, {rung.qps_at_slo:7.0f}/s in the SLO",
            flush=True,
        )
        rungs.append(rung)
    return rungs


def bundles(
    run: Run, config: Config, trained: Trained, artefacts: Mapping[str, Artefact]
) -> list[Bundle]:
    """Pack float32 as version 1.0 and what is served as 2.0, with the accuracy each has."""
    from labs.lab4_model_serving.bundle import write_bundle
    from labs.lab4_model_serving.classifier import minilm
    from labs.lab4_model_serving.paired_accuracy import compare_accuracy

    precisions = dict.fromkeys(("fp32", str(config.served)))
    paths = {name: path_of(artefacts[SERVED[name]]) for name in precisions}
    rows = compare_accuracy(paths, trained.ids, trained.judged.labels, device=run.device)
    drop = rows[-1].against_fp32
    run.metric(
        "serving.accuracy_drop",
        drop.drop,
        unit="ratio",
        n=drop.n,
        ci95=drop.ci95,
        how=f"float32 minus {config.served}, paired by text, both on {run.device}",
    )
    return [
        write_bundle(
            run.work / "bundles" / version,
            name=NAME,
            version=version,
            model=paths[row.precision],
            tokenizer=minilm() / "tokenizer.json",
            labels=trained.split.names,
            precision=row.precision,
            max_tokens=config.max_tokens,
            facts={"accuracy": row.accuracy, "n": len(trained.judged)},
        )
        for row, version in ((rows[0], FP32_VERSION), (rows[-1], SERVED_VERSION))
    ]
