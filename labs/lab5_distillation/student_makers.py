"""Where a student's first weights come from: its teacher's layers, or the pretrained encoder's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Makers:
    """Functions from a seed to an untrained student of one architecture.

    Attributes
    ----------
    from_pretrained
        The pretrained encoder's layers and a new head: nothing in the weights is the teacher's.
    from_teacher
        The teacher's layers and its head, the same for every seed.
    """

    from_pretrained: Callable[[int], TextClassifier]
    from_teacher: Callable[[int], TextClassifier]


def makers_of(kind: Student, config: Config, material: Material, taught: Taught) -> Makers:
    """Both starts of a kind. A narrow one has the same heads and neurons in both."""
    layers = layers_for(kind, len(layers_of(taught.model)))
    start = by_depth(taught.model, layers)
    importance = None
    if kind == "narrow":
        ids, labels = material.train.ids[:JUDGES], material.train.labels[:JUDGES]
        importance = taylor_importance(start, TokenSet(ids, labels, material.train.device))
        start = narrowed(start, importance)
    check_pair(taught.model, start)

    def from_pretrained(seed: int) -> TextClassifier:
        torch.manual_seed(seed)
        whole = classifier(config.teacher, material.split.names).to(material.train.device)
        student = by_depth(whole, layers)
        return ready(student if importance is None else narrowed(student, importance))

    return Makers(from_pretrained, lambda _: ready(start))


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


def named_makers(config: Config, material: Material, taught: Taught) -> Makers:
    """A pretrained encoder by name: its teacher has no layers for it."""

    def make(seed: int) -> TextClassifier:
        torch.manual_seed(seed)
        student = by_name(config.student, material.split.names, teacher_tokens=material.tokens)
        check_pair(taught.model, student)
        return ready(student.to(material.train.device))

    return Makers(make, make)
