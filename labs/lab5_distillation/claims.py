"""What the lab promises to show, each promise one metric of the run and one bound."""

from __future__ import annotations

from typing import Literal

from common.results import Claim


def _claim(
    name: str, text: str, metric: str, op: Literal["<", "<=", ">", ">=", "=="], target: float
) -> Claim:
    return Claim(f"L5.{name}", text, metric=metric, op=op, target=target)


CLAIMS = (
    _claim(
        "retention",
        "the reported student, in INT8, loses less than 5 % of its teacher's accuracy",
        "student.reported.retention",
        ">",
        0.95,
    ),
    _claim(
        "bert",
        "BERT-Large to BERT-Small with less than 5 % accuracy loss",
        "student.named.retention",
        ">",
        0.95,
    ),
    _claim("teacher", "CLINC150: the teacher's accuracy", "teacher.accuracy", ">=", 0.958),
    _claim(
        "two_layers",
        "CLINC150: two of six layers in INT8 keep 99 % of the teacher's accuracy",
        "student.two_layers.retention",
        ">=",
        0.99,
    ),
    _claim(
        "one_layer",
        "CLINC150: one of six layers in INT8 keeps 97.5 %",
        "student.one_layer.retention",
        ">=",
        0.975,
    ),
    _claim(
        "speed",
        "two layers in INT8 answer 6 times the teacher's texts a second in the same runtime",
        "student.two_layers.throughput_ratio",
        ">=",
        6,
    ),
    _claim("size", "two layers in INT8, MB on disk", "student.two_layers.size_mb", "<=", 16),
    _claim(
        "gain",
        "the smallest student: with the teacher (its layers, its answers) minus without, lower end",
        "gain.smallest_low",
        ">",
        0,
    ),
    _claim(
        "aware",
        "the quantization-aware student minus the same, trained as long and quantized afterwards",
        "aware.gain",
        ">=",
        0,
    ),
    _claim(
        "parity",
        "exported students answer as PyTorch does, every logit",
        "export.max_abs_error",
        "<",
        1e-3,
    ),
    _claim(
        "gradient",
        "the loss's gradient against its closed form, largest difference",
        "loss.gradient_error",
        "<",
        1e-12,
    ),
    _claim(
        "resume",
        "a distillation stopped half-way and resumed: difference of the last loss",
        "resume.loss_difference",
        "==",
        0,
    ),
)
