"""The second half of the run: INT8 by the real runtime, speed, and what was gained."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from labs.lab5_distillation.training_stages import TAUGHT, recipe_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from common.runner import Run
    from labs.lab5_distillation.config import Config
    from labs.lab5_distillation.encoders import TextClassifier
    from labs.lab5_distillation.throughput import Ratio, Throughput
    from labs.lab5_distillation.training_stages import Material, Taught, Trained
    from labs.lab5_distillation.unfinished import Unfinished

FP32, INT8, AWARE, CONTINUED = "fp32", "int8", "int8, aware", "int8, continued"
TEACHER: Final = "teacher"
PARITY_TEXTS = 256


@dataclass
class Exported:
    """One kind of model in one precision: its file, and its logits [N, C] for each seed."""

    name: str
    precision: str
    path: Path
    test: list[Tensor]
    validation: list[Tensor]


@dataclass(frozen=True)
class Speed:
    """Batches of 32 for throughput, single texts for latency, and ratios to the fp32 teacher."""

    batched: dict[str, Throughput]
    single: dict[str, Throughput]
    ratios: dict[str, Ratio]


def quantize(
    run: Run,
    config: Config,
    material: Material,
    taught: Taught,
    students: Mapping[str, Mapping[str, Trained]],
    unfinished: Unfinished,
) -> dict[str, Exported]:
    """Teacher and students as ONNX, float32 and INT8; the first student also made aware of INT8."""
    from labs.lab5_distillation.encoders import clone

    models = {TEACHER: [taught.model]}
    models |= {name: found[TAUGHT].models for name, found in students.items()}
    found: dict[str, Exported] = {}
    worst = 0.0
    for name, seeds in models.items():
        for seed, model in enumerate(seeds):
            error = _export(run, found, material, name, seed, clone(model).cpu().eval())
            worst = max(worst, error)
    run.metric(
        "export.max_abs_error",
        worst,
        unit="logit",
        n=min(PARITY_TEXTS, len(material.test)),
        how="float32 ONNX against PyTorch on the CPU, over all models",
    )
    if config.aware_epochs:
        first = config.students[0]
        for seed, model in enumerate(students[first][TAUGHT].models):
            for precision in (AWARE, CONTINUED):
                further = _further(
                    run, config, material, taught, model, seed, precision, unfinished
                )
                _write_int8(run, found, material, first, seed, further, precision)
    return found


def _further(
    run: Run,
    config: Config,
    material: Material,
    taught: Taught,
    model: TextClassifier,
    seed: int,
    precision: str,
    unfinished: Unfinished,
) -> TextClassifier:
    """The student trained further under the teacher, as a plain model.

    `AWARE`: with INT8 simulated. `CONTINUED`: as long without, so that awareness is not credited
    with what more training does.
    """
    from labs.lab5_distillation.encoders import clone
    from labs.lab5_distillation.fake_quantization import INT8 as SCHEME
    from labs.lab5_distillation.fake_quantization import strip
    from labs.lab5_distillation.post_training_quantization import has_integer_dot_product
    from labs.lab5_distillation.quantization_aware import (
        continued_distillation,
        quantization_aware_distillation,
    )
    from labs.lab5_distillation.unfinished import Job

    recipe = recipe_of(
        run, config, epochs=config.aware_epochs, rate=config.aware_rate, seed=run.seed + seed
    ).but(head_rate=config.aware_rate)
    steps = recipe.epochs * -(-len(material.train) // recipe.batch_size)

    def train(checkpoint: Path) -> TextClassifier:
        with run.progress_bar(precision, steps) as bar:
            learn: Any = continued_distillation
            if precision == AWARE:
                scheme = replace(SCHEME, reduce_range=not has_integer_dot_product())
                learn = partial(quantization_aware_distillation, scheme=scheme)
            trained: TextClassifier = learn(
                model,
                taught.cached,
                material.train,
                recipe,
                temperature=config.temperature,
                alpha=config.alpha,
                on_step=lambda done, loss: bar.update(done, f"loss {loss:.3f}"),
                checkpoint=checkpoint,
            )
        return strip(trained) if precision == AWARE else trained

    name = precision.rsplit(" ", 1)[-1]
    return unfinished.student(Job(f"{name}-{seed}", lambda: clone(model), train)).cpu()


def _export(
    run: Run,
    found: dict[str, Exported],
    material: Material,
    name: str,
    seed: int,
    model: TextClassifier,
) -> float:
    """Write a model as float32 and INT8; the largest difference of the first to PyTorch."""
    from labs.lab5_distillation import recipe as recipes
    from labs.lab5_distillation.onnx_export import session_logits
    from labs.lab5_distillation.tokens import TokenSet

    path = export(run, model, run.work / f"{name}-{seed}.onnx")
    few = material.test
    some = TokenSet(few.ids[:PARITY_TEXTS], few.labels[:PARITY_TEXTS])
    error = float(
        (session_logits(path, some) - recipes.logits(model, some))
        .abs()
        .nan_to_num(float("inf"))
        .max()
    )
    if seed == 0:
        found[f"{name}, {FP32}"] = Exported(name, FP32, path, [], [])
    _write_int8(run, found, material, name, seed, model, INT8, path)
    return error


def export(run: Run, model: TextClassifier, path: Path) -> Path:
    """A model as float32 ONNX, with attention fused where this torch writes what can be fused."""
    from common.errors import RunError
    from labs.lab5_distillation.onnx_export import export_onnx

    try:
        return export_onnx(model, path)
    except RunError as error:
        if (said := f"ONNX without fused attention, so slower: {error}") not in run.notes:
            run.note(said)
        return export_onnx(model, path, fused=False)


def _write_int8(
    run: Run,
    found: dict[str, Exported],
    material: Material,
    name: str,
    seed: int,
    model: TextClassifier,
    precision: str,
    fp32: Path | None = None,
) -> None:
    from labs.lab5_distillation.onnx_export import session_logits
    from labs.lab5_distillation.post_training_quantization import (
        has_integer_dot_product,
        quantize_dynamic_int8,
    )

    slug = precision.replace(", ", "-")
    if fp32 is None:
        fp32 = export(run, model, run.work / f"{name}-{seed}-{slug}-fp32.onnx")
    path = quantize_dynamic_int8(
        fp32, run.work / f"{name}-{seed}-{slug}.onnx", reduce_range=not has_integer_dot_product()
    )
    entry = found.setdefault(f"{name}, {precision}", Exported(name, precision, path, [], []))
    threads = len(os.sched_getaffinity(0))
    entry.test.append(session_logits(path, material.test, threads=threads))
    entry.validation.append(session_logits(path, material.validation, threads=threads))


def speeds(run: Run, config: Config, material: Material, exported: Mapping[str, Exported]) -> Speed:
    """Texts a second and milliseconds of every file, in turns, one thread, the same runtime."""
    from labs.lab5_distillation.throughput import (
        batched,
        measure,
        onnx_runner,
        padding,
        single,
        throughput_ratio,
    )
    from labs.lab5_distillation.tokens import TokenSet

    n = min(config.speed_texts, len(material.test))
    texts = TokenSet(material.test.ids[:n], material.test.labels[:n])
    runners = {
        key: onnx_runner(each.path)
        for key, each in exported.items()
        if each.precision != CONTINUED  # the same graph as the student quantized after training
    }
    feeds = batched(texts)
    turns, least = config.speed_repeats, config.speed_seconds
    many = measure(runners, feeds, repeats=turns, seconds=least)
    singles = single(texts, min(n, 200), run.seed)
    one = measure(runners, singles, repeats=turns, seconds=least / 2)
    run.metric("speed.padding", padding(feeds), unit="ratio", n=n)
    base = many[f"{TEACHER}, {FP32}"]
    ratios = {key: throughput_ratio(each, base) for key, each in many.items()}
    for key, each in one.items():
        run.latency(f"speed.{key.replace(', ', '_').replace('-', '_')}", each.latency)
    return Speed(many, one, ratios)
