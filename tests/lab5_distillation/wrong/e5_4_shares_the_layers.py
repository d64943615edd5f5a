"""The kept layers are the teacher's own, which the student's training changes."""

from torch import nn


def by_depth(teacher, layers):
    has = len(layers_of(teacher))
    if not layers or any(not 0 <= layer < has for layer in layers):
        raise InputError(f"layers {tuple(layers)} must be some of 0 to {has - 1}, the teacher's")
    student = clone(teacher)
    kept = nn.ModuleList(layers_of(teacher)[layer] for layer in layers)
    where, name = layers_path(student).rsplit(".", 1)
    setattr(student.get_submodule(where), name, kept)
    student.encoder.config.num_hidden_layers = len(kept)
    return student.requires_grad_(True)
