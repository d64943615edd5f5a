"""Where a student's first weights come from: its teacher's layers, or the pretrained encoder's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from labs.lab5_distillation.encoders import (
    TextClassifier,
    classifier,
    clone,
    freeze_embeddings,
    layers_of,
)
from labs.lab5_distillation.importance import (
    Importance,
    magnitude_importance,
    taylor_importance,
    widths,
)
from labs.lab5_distillation.students import by_depth, by_name, check_pair, layer_choice
from labs.lab5_distillation.tokens import TokenSet
from labs.lab5_distillation.width_pruning import by_width

if TYPE_CHECKING:
    from labs.lab5_distillation.config import Config, Student
    from labs.lab5_distillation.training_stages import Material, Taught

JUDGES = 512  # training texts that say which heads and neurons matter


def layers_for(kind: Student, has: int) -> tuple[int, ...]:
    """Which of the teacher's layers a student of a kind starts from: the ends, or the first."""
    return layer_choice(has, min(2, has), "spread") if kind == "two_layers" else (0,)


def maker_of(kind: Student, material: Material, taught: Taught) -> Callable[[int], TextClassifier]:
    """A function from a seed to the untrained student of a kind, made of its teacher's layers."""
    start = by_depth(taught.model, layers_for(kind, len(layers_of(taught.model))))
    if kind == "narrow":
        ids, labels = material.train.ids[:JUDGES], material.train.labels[:JUDGES]
        judges = TokenSet(ids, labels, material.train.device)
        start = narrowed(start, taylor_importance(start, judges))
    check_pair(taught.model, start)
    return lambda _: ready(start)


def maker_without_teacher(
    kind: Student, config: Config, material: Material
) -> Callable[[int], TextClassifier]:
    """The same architecture from the pretrained encoder: nothing in it comes from the teacher."""

    def make(seed: int) -> TextClassifier:
        torch.manual_seed(seed)
        whole = classifier(config.teacher, material.split.names).to(material.train.device)
        student = by_depth(whole, layers_for(kind, len(layers_of(whole))))
        if kind == "narrow":
            student = narrowed(student, magnitude_importance(student))
        return ready(student)

    return make


def narrowed(student: TextClassifier, importance: Importance) -> TextClassifier:
    """A third of a student's heads and neurons, the most important ones."""
    heads, inner = widths(student)[0]
    return by_width(
        student, importance=importance, heads=max(1, heads // 3), inner=max(1, inner // 3)
    )


def ready(student: TextClassifier) -> TextClassifier:
    """A copy that learns everything but its word and position vectors."""
    copied = clone(student)
    copied.requires_grad_(True)
    freeze_embeddings(copied)
    return copied


def named_student(
    config: Config, material: Material, taught: Taught
) -> Callable[[int], TextClassifier]:
    """A pretrained encoder by name, refused where it reads other tokens or gives other labels."""

    def make(seed: int) -> TextClassifier:
        torch.manual_seed(seed)
        student = by_name(config.student, material.split.names, teacher_tokens=material.tokens).to(
            material.train.device
        )
        check_pair(taught.model, student)
        freeze_embeddings(student)
        return student

    return make
