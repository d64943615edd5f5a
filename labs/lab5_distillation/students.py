"""Students made from a teacher, or by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from common.errors import InputError
from labs.lab5_distillation.encoders import TextClassifier, clone, layers_of, layers_path


def by_depth(teacher: TextClassifier, layers: Sequence[int]) -> TextClassifier:
    """The teacher with only the given layers of its encoder, in that order, and its own head.

    Parameters
    ----------
    layers
        Numbers of the teacher's layers, the first is 0.

    Raises
    ------
    InputError
        No layer, or one that the teacher lacks.
    """
    has = len(layers_of(teacher))
    if not layers or any(not 0 <= layer < has for layer in layers):
        raise InputError(f"layers {tuple(layers)} must be some of 0 to {has - 1}, the teacher's")
    student = clone(teacher)
    kept = nn.ModuleList(layers_of(student)[layer] for layer in layers)
    where, name = layers_path(student).rsplit(".", 1)
    setattr(student.get_submodule(where), name, kept)
    student.encoder.config.num_hidden_layers = len(kept)
    return student
