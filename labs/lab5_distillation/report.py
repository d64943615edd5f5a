"""What the run found: scores, gains, the frontier, the decision, and what a scale leaves open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from labs.lab5_distillation.deployment_stages import AWARE, CONTINUED, FP32, INT8, TEACHER
from labs.lab5_distillation.encoders import PACKAGED
from labs.lab5_distillation.training_stages import ALONE, COPIED, TAUGHT

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

Part = Literal["test", "validation"]
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
    """What came from the teacher, paired by seed and text, in float32.

    ``gain.<student>``: its layers and its answers, against the pretrained layers and the labels.
    Of the last student also ``.start``, what the layers give, and ``.answers``, what the answers
    add to them.
    """
    from labs.lab5_distillation.evaluation import correct
    from labs.lab5_distillation.retention import paired_gain

    labels = material.test.labels

    def right(found: Trained) -> NDArray[np.bool_]:
        return correct(stack(found.test), labels)

    def difference(name: str, better: Trained, worse: Trained, how: str) -> Gain:
        pairs = min(len(better.test), len(worse.test))
        gain = paired_gain(right(better)[:pairs], right(worse)[:pairs], seed=run.seed)
        how = f"{how}, paired; one teacher; {gain.how}"
        run.metric(name, gain.value, unit="accuracy", n=len(labels), ci95=gain.ci95, how=how)
        return gain

    found: dict[str, Gain] = {}
    for name, arms in students.items():
        how = "distilled - the same architecture from pretrained layers on the labels"
        found[name] = difference(f"gain.{name}", arms[TAUGHT], arms[ALONE], how)
    last = config.students[-1]
    arms = students[last]
    found[f"{last}: the start"] = difference(
        f"gain.{last}.start", arms[COPIED], arms[ALONE], "the teacher's layers - pretrained ones"
    )
    found[f"{last}: the answers"] = difference(
        f"gain.{last}.answers", arms[TAUGHT], arms[COPIED], "the teacher's answers - labels"
    )
    first = students[config.students[0]]
    for name, each in methods.items():
        accuracy = float(right(each).mean())
        run.metric(f"methods.{name}.accuracy", accuracy, unit="ratio", n=len(labels))
        how = f"{name} - the same student on the labels alone"
        found[name] = difference(f"methods.{name}.gain", each, first[ALONE], how)
        difference(f"methods.{name}.over_logits", each, first[TAUGHT], f"{name} - distilled logits")
    run.metric("gain.smallest_low", found[last].ci95[0], unit="accuracy", n=len(labels))
    return found


def candidates(
    run: Run,
    material: Material,
    taught: Taught,
    students: Mapping[str, Mapping[str, Trained]],
    exported: Mapping[str, Exported],
    speed: Speed,
    part: Part = "test",
) -> list[Candidate]:
    """Everything that could be served, as measured: float32 by PyTorch, INT8 by ONNX Runtime.

    Parameters
    ----------
    part
        Texts that accuracy is of: to choose by the one and to report by the other.
    """
    from labs.lab5_distillation.encoders import n_parameters

    parameters = n_parameters(taught.model)
    rows: list[tuple[str, Training, str, int, Sequence[Tensor]]] = [
        (TEACHER, TEACHER, FP32, parameters, [getattr(taught, part)]),
        (TEACHER, TEACHER, INT8, parameters, getattr(exported[f"{TEACHER}, {INT8}"], part)),
    ]
    for name, kinds in students.items():
        for how in (ALONE, TAUGHT):
            each = kinds[how]
            rows.append((name, how, FP32, each.parameters, getattr(each, part)))
        rows += [
            (name, TAUGHT, precision, kinds[TAUGHT].parameters, getattr(deployed, part))
            for precision in (INT8, AWARE)
            if (deployed := exported.get(f"{name}, {precision}"))
        ]
    truth = getattr(material, part).labels
    teacher = getattr(taught, part).numpy()
    return [_candidate(truth, teacher, exported, speed, *row) for row in rows]


def _candidate(
    labels: NDArray[np.int64],
    teacher: NDArray[np.float32],
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

    found = score(stack(logits), labels, teacher)
    key = f"{name}, {precision}"
    kept = retention(correct(stack(logits), labels), correct(teacher, labels)[0])
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
    """The quantization-aware student against the same one, trained as long, quantized afterwards.

    And against the student before either, for what the extra training gives.
    """
    from labs.lab5_distillation.evaluation import correct
    from labs.lab5_distillation.retention import paired_gain

    name, labels = config.students[0], material.test.labels
    if f"{name}, {AWARE}" not in exported:
        run.unmeasured("L5.aware", "--aware-epochs 0 leaves the quantization-aware student out")
        return
    right = {
        precision: correct(stack(exported[f"{name}, {precision}"].test), labels)
        for precision in (AWARE, CONTINUED, INT8)
    }
    for metric, other in (("aware.gain", CONTINUED), ("aware.gain_over_untrained", INT8)):
        gain = paired_gain(right[AWARE], right[other], seed=run.seed)
        how = f"both INT8 in ONNX Runtime; {gain.how}"
        run.metric(metric, gain.value, unit="accuracy", n=len(labels), ci95=gain.ci95, how=how)


def show(
    run: Run,
    config: Config,
    material: Material,
    taught: Taught,
    students: Mapping[str, Mapping[str, Trained]],
    found: Sequence[Candidate],
    chosen_from: Sequence[Candidate],
    gained: Mapping[str, Gain],
    speed: Speed,
) -> None:
    """Figures, and the decision for a place with little room: by validation texts, not by these."""
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
        caption="What the teacher adds: distilled from its layers, minus the same architecture and "
        "seeds from the pretrained layers on the labels. Of the last student also its two parts. "
        "95 % intervals over seeds and texts.",
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
            area = f"baseline.{config.students[0]}"
            if name == TAUGHT:
                area = f"student.{config.students[0]}_fp32"
            run.metric(f"{area}.ece", judged.ece, unit="ratio", n=len(labels), how="first seed")
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
    if scores.agreement and (n := round(scores.agreement.teacher_errors)):
        area, of = f"student.{config.students[0]}_fp32", "of the teacher's errors"
        run.metric(f"{area}.copied", scores.agreement.copied, unit="ratio", n=n, how=of)
        run.metric(f"{area}.corrected", scores.agreement.corrected, unit="ratio", n=n, how=of)
    decision = decide(chosen_from, Requirement(max_mb=16, min_retention=0.97))
    (run.dir / "decision.md").write_text(to_markdown(decision) + "\n", encoding="utf-8")
    Console(highlight=False).print(to_rich(decision))
    run.note(
        "For a place with room for 16 MB that asks for 97 % retention, by the validation texts: "
        + decision.why
    )


def what_is_left_open(run: Run, config: Config, material: Material) -> None:
    """Claims that this run cannot show, with the reason."""
    pair = f"{config.teacher} to {config.student or 'students of its own layers'}"
    if not ("bert-large" in config.teacher and "L-4_H-512" in config.student):
        run.unmeasured(
            "L5.bert",
            f"the pair of this run is {pair}, judged by L5.retention; BERT-Large has to come from "
            "the Hub: --teacher bert-large-uncased --student google/bert_uncased_L-4_H-512_A-8",
        )
    n, n_test = len(material.train), len(material.test)
    reason = ""
    if config.teacher != PACKAGED:
        reason = f"the claim is of the packaged MiniLM, not of {config.teacher}"
    for claim in ("speed", "size"):
        if reason or "two_layers" not in config.students:
            run.unmeasured(f"L5.{claim}", reason or "two_layers is not among --students")
    if config.train or material.split.dataset.provenance.name != "clinc150":
        reason = reason or "the texts are not CLINC150"
    elif n < SMALL or config.test_texts:
        reason = reason or f"only {n:,} training and {n_test:,} test texts"
    for claim in ("teacher", "two_layers", "one_layer"):
        if reason:
            run.unmeasured(f"L5.{claim}", reason)
        elif claim != "teacher" and claim not in config.students:
            run.unmeasured(f"L5.{claim}", f"{claim} is not among --students")
    if n < SMALL:
        for claim in ("gain", "retention", "aware"):
            run.unmeasured(f"L5.{claim}", f"{n:,} training texts are too few to tell")
