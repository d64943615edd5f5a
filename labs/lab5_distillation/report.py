"""What the run found: scores, gains, the frontier, the decision, and what a scale leaves open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labs.lab5_distillation.deployment_stages import AWARE, FP32, INT8, TEACHER
from labs.lab5_distillation.training_stages import ALONE, TAUGHT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from common.runner import Run
    from labs.lab5_distillation.config import Config
    from labs.lab5_distillation.deployment_stages import Exported, Speed
    from labs.lab5_distillation.frontier import Candidate, Training
    from labs.lab5_distillation.retention import Gain
    from labs.lab5_distillation.training_stages import Material, Taught, Trained

SMALL = 5000
"""Training texts below which a run does not speak of what distillation can do."""


def stack(found: Sequence[Tensor]) -> NDArray[np.float64]:
    """Logits of the seeds, [S, N, C]."""
    return np.stack([each.numpy() for each in found]).astype(np.float64)


def judge_teacher(run: Run, material: Material, taught: Taught) -> None:
    """Accuracy and calibration of the teacher."""
    from labs.lab5_distillation.calibration import calibration
    from labs.lab5_distillation.evaluation import score

    labels, n = material.test.labels, len(material.test)
    found = score(taught.test.numpy(), labels)
    run.metric("teacher.accuracy", found.accuracy, unit="ratio", n=n, ci95=found.ci95)
    run.metric("teacher.macro_f1", found.macro_f1, unit="ratio", n=n)
    trust = calibration(taught.test.numpy(), labels)
    run.metric("teacher.ece", trust.ece, unit="ratio", n=n, how="15 bins of equal width")


def gains(
    run: Run,
    config: Config,
    material: Material,
    students: Mapping[str, Mapping[str, Trained]],
    methods: Mapping[str, Trained],
) -> dict[str, Gain]:
    """What the teacher added to each student, paired by seed and text, in float32."""
    from labs.lab5_distillation.evaluation import correct
    from labs.lab5_distillation.retention import paired_gain

    labels, n = material.test.labels, len(material.test)
    found: dict[str, Gain] = {}
    for name, kinds in students.items():
        right = {how: correct(stack(each.test), labels) for how, each in kinds.items()}
        found[name] = paired_gain(right[TAUGHT], right[ALONE], seed=run.seed)
    baseline = correct(stack(students[config.students[0]][ALONE].test), labels)
    for name, each in methods.items():
        taught = correct(stack(each.test), labels)
        found[name] = paired_gain(taught, baseline[: len(taught)], seed=run.seed)
        run.metric(f"methods.{name}.accuracy", taught.mean(), unit="ratio", n=n)
    for name, gain in found.items():
        run.metric(
            f"gain.{name}",
            gain.value,
            unit="accuracy",
            n=n,
            ci95=gain.ci95,
            how=f"distilled - the same student on the labels alone, paired; {gain.how}",
        )
    low = found[config.students[-1]].ci95[0]
    run.metric("gain.smallest_low", low, unit="accuracy", n=n)
    return found


def candidates(
    run: Run,
    material: Material,
    taught: Taught,
    students: Mapping[str, Mapping[str, Trained]],
    exported: Mapping[str, Exported],
    speed: Speed,
) -> list[Candidate]:
    """Everything that could be served, as measured: float32 by PyTorch, INT8 by ONNX Runtime."""
    from labs.lab5_distillation.encoders import n_parameters

    parameters = n_parameters(taught.model)
    rows: list[tuple[str, Training, str, int, Sequence[Tensor]]] = [
        (TEACHER, TEACHER, FP32, parameters, [taught.test]),
        (TEACHER, TEACHER, INT8, parameters, exported[f"{TEACHER}, {INT8}"].test),
    ]
    for name, kinds in students.items():
        for how in (ALONE, TAUGHT):
            each = kinds[how]
            rows.append((name, how, FP32, each.parameters, each.test))
        rows += [
            (name, TAUGHT, precision, kinds[TAUGHT].parameters, deployed.test)
            for precision in (INT8, AWARE)
            if (deployed := exported.get(f"{name}, {precision}"))
        ]
    return [_candidate(run, material, taught, exported, speed, *row) for row in rows]


def _candidate(
    run: Run,
    material: Material,
    taught: Taught,
    exported: Mapping[str, Exported],
    speed: Speed,
    name: str,
    training: Training,
    precision: str,
    parameters: int,
    logits: Sequence[Tensor],
) -> Candidate:
    """One model's numbers; a fine-tuned student has the file size and speed of its twin."""
    from labs.lab5_distillation.evaluation import correct, score
    from labs.lab5_distillation.frontier import Candidate
    from labs.lab5_distillation.onnx_export import size_mb
    from labs.lab5_distillation.retention import retention

    labels = material.test.labels
    found = score(stack(logits), labels, taught.test.numpy())
    key = f"{name}, {precision}"
    kept = retention(correct(stack(logits), labels), correct(taught.test.numpy(), labels))
    is_teacher = key == f"{TEACHER}, {FP32}"
    return Candidate(
        name=name,
        training=training,
        precision=precision,
        accuracy=found.accuracy,
        accuracy_ci95=found.ci95,
        size_mb=size_mb(exported[key].path),
        params=parameters,
        retention=None if is_teacher else kept.value,
        retention_ci95=None if is_teacher else kept.ci95,
        agreement=None if is_teacher or not found.agreement else found.agreement.share,
        latency_ms=speed.single[key].latency.p50_ms,
        texts_per_s=speed.batched[key].texts_per_s,
        throughput_ratio=speed.ratios[key].value,
        throughput_ratio_ci95=speed.ratios[key].ci95,
        seeds=len(logits),
        texts=len(labels),
        how=found.how,
    )


def record(run: Run, config: Config, found: Sequence[Candidate]) -> None:
    """Metrics of every candidate; ``student.<name>`` is the student in INT8 as it would be served.

    Where there are two in INT8, the quantization-aware one is served: it was decided beforehand,
    and not by these texts.
    """
    from labs.lab5_distillation.frontier import metrics_of

    reported = config.students[0]
    for each in found:
        if each.name == TEACHER:
            area = "teacher_int8" if each.precision == INT8 else ""
        elif each.training == ALONE:
            area = f"baseline.{each.name}"
        elif each.precision == FP32:
            area = f"student.{each.name}_fp32"
        elif each.precision == INT8 and each.name == reported and config.aware_epochs:
            area = f"student.{each.name}_post_training"
        else:
            area = f"student.{each.name}"
        metrics = metrics_of(each, area) if area else {}
        run.results.metrics.update(metrics)
        if area == f"student.{reported}":
            run.results.metrics.update(metrics_of(each, "student.reported"))


def aware_gain(
    run: Run, config: Config, material: Material, exported: Mapping[str, Exported]
) -> None:
    """The quantization-aware student against the same one quantized after training."""
    from labs.lab5_distillation.evaluation import correct
    from labs.lab5_distillation.retention import paired_gain

    name, labels = config.students[0], material.test.labels
    aware = exported.get(f"{name}, {AWARE}")
    if aware is None:
        run.unmeasured("L5.aware", "--aware-epochs 0 leaves the quantization-aware student out")
        return
    right = [correct(stack(e.test), labels) for e in (aware, exported[f"{name}, {INT8}"])]
    gain = paired_gain(*right, seed=run.seed)
    run.metric(
        "aware.gain",
        gain.value,
        unit="accuracy",
        n=len(labels),
        ci95=gain.ci95,
        how=f"both INT8 in ONNX Runtime; {gain.how}",
    )


def show(
    run: Run,
    config: Config,
    material: Material,
    taught: Taught,
    students: Mapping[str, Mapping[str, Trained]],
    found: Sequence[Candidate],
    gained: Mapping[str, Gain],
    speed: Speed,
) -> None:
    """Figures, the table of candidates, and the decision for a place with little room."""
    from rich.console import Console

    from labs.lab5_distillation.calibration import calibration, reliability
    from labs.lab5_distillation.decision_table import Requirement, decide, to_markdown, to_rich
    from labs.lab5_distillation.evaluation import class_changes, score
    from labs.lab5_distillation.figures_evaluation import (
        draw_classes,
        draw_frontier,
        draw_gains,
        draw_ratios,
        draw_reliability,
    )
    from labs.lab5_distillation.frontier import pareto

    labels = material.test.labels
    run.figure(
        "frontier",
        draw_frontier(pareto(found)),
        caption="Size against accuracy on the test texts, with 95 % intervals. Arrows lead from a "
        "student that was fine-tuned alone to the same student distilled.",
    )
    run.figure(
        "frontier_ms",
        draw_frontier(pareto(found, "latency_ms")),
        caption="The same against the median time of one text on one thread.",
    )
    run.figure(
        "gains",
        draw_gains(gained),
        caption="What the teacher adds: distilled minus fine-tuned, the same student and seeds, "
        "with 95 % intervals over seeds and texts.",
    )
    run.figure(
        "speed",
        draw_ratios(speed.ratios),
        caption="Texts a second over the float32 teacher's in ONNX Runtime on one thread.",
    )
    first = students[config.students[0]]
    curves = {}
    for name, logits in (
        ("teacher", [taught.test]),
        (ALONE, first[ALONE].test),
        (TAUGHT, first[TAUGHT].test),
    ):
        judged = calibration(stack(logits[:1])[0], labels)
        curves[name] = (reliability(stack(logits[:1])[0], labels), judged)
        if name != "teacher":
            area = "baseline" if name == ALONE else "student"
            run.metric(f"{area}.{config.students[0]}.ece", judged.ece, unit="ratio", n=len(labels))
    run.figure(
        "reliability",
        draw_reliability(curves),
        caption="Confidence against accuracy of teacher and first student. A student at T > 1 "
        "learns the teacher's ratios and is rarely as sure as one that learned from labels.",
    )
    names = material.split.names
    changes = class_changes(stack(first[TAUGHT].test), taught.test.numpy(), labels, names)
    run.figure(
        "classes",
        draw_classes(changes),
        caption="Labels that lose most from teacher to student; filled where chance over all "
        "labels does not explain it.",
    )
    scores = score(stack(first[TAUGHT].test), labels, taught.test.numpy())
    if scores.agreement:
        n_errors = round(scores.agreement.teacher_errors)
        run.metric("student.copied_errors", scores.agreement.copied, unit="ratio", n=n_errors)
        run.metric("student.corrected_errors", scores.agreement.corrected, unit="ratio", n=n_errors)
    decision = decide(found, Requirement(max_mb=16, min_retention=0.97))
    (run.dir / "decision.md").write_text(to_markdown(decision) + "\n", encoding="utf-8")
    Console(highlight=False).print(to_rich(decision))
    run.note(f"For a place with room for 16 MB that asks for 97 % retention: {decision.why}")


def what_is_left_open(run: Run, config: Config, material: Material) -> None:
    """Claims that this run cannot show, with the reason."""
    of_clinc = material.split.dataset.provenance.name == "clinc150"
    small = len(material.train) < SMALL
    pair = f"{config.teacher} to {config.student or 'students of its own layers'}"
    if not (config.student and "bert-large" in config.teacher):
        run.unmeasured(
            "L5.bert",
            f"the pair of this run is {pair}, judged by L5.retention; BERT-Large has to come from "
            "the Hub: --teacher bert-large-uncased --student google/bert_uncased_L-4_H-512_A-8",
        )
    why = ""
    if not of_clinc:
        why = "the texts are not CLINC150"
    elif small or config.test_texts:
        why = f"only {len(material.train):,} training and {len(material.test):,} test texts"
    for claim, student in (
        ("teacher", ""),
        ("two_layers", "two_layers"),
        ("one_layer", "one_layer"),
    ):
        if why:
            run.unmeasured(f"L5.{claim}", why)
        elif student and student not in config.students:
            run.unmeasured(f"L5.{claim}", f"{student} is not among --students")
    if small:
        run.unmeasured("L5.gain", f"{len(material.train):,} training texts are too few to tell")
        run.unmeasured("L5.retention", "the teacher is hardly trained on so few texts")
        run.unmeasured("L5.aware", f"{len(material.train):,} training texts are too few to tell")
