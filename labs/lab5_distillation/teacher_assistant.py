"""Distillation in steps of size: the teacher teaches an assistant, the assistant the student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from common.errors import InputError
from labs.lab5_distillation.encoders import TextClassifier, freeze_embeddings, layers_of
from labs.lab5_distillation.recipe import Recipe, cached, distillation, train
from labs.lab5_distillation.students import by_depth, layer_choice
from labs.lab5_distillation.tokens import TokenSet

Maker = Callable[[int], TextClassifier]
"""``maker(depth)`` -> an untrained student with so many layers."""


def from_layers_of(teacher: TextClassifier) -> Maker:
    """Students that start from evenly spaced layers of the teacher, and its head.

    Word vectors stay as they are, in all of them.
    """

    def make(depth: int) -> TextClassifier:
        student = by_depth(teacher, layer_choice(len(layers_of(teacher)), depth))
        freeze_embeddings(student)
        return student

    return make


@dataclass(frozen=True)
class Link:
    """A student of a chain: its layers, and the layer-epochs spent on it and all before it."""

    model: TextClassifier
    depth: int
    layer_epochs: float


def chain(
    teacher: TextClassifier,
    depths: Sequence[int],
    texts: TokenSet,
    recipe: Recipe,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    maker: Maker | None = None,
    checkpoints: Path | None = None,
    bad_batches: Path | None = None,
) -> list[Link]:
    """Distil ``teacher`` into a student of ``depths[0]`` layers, that into ``depths[1]``, and on.

    One depth is direct distillation. Every student starts as direct distillation's would, so that
    a chain differs from it in who teaches and in nothing else.

    Parameters
    ----------
    depths
        Layers of each student, falling, all below the teacher's.
    recipe
        For each link. The last student is trained ``recipe.epochs`` long however long the chain.
    maker
        Makes the students; None: from layers of the teacher (`from_layers_of`).
    checkpoints
        Folder with a checkpoint for each link, from which a stopped chain goes on; a maker must
        then give the same weights again.
    bad_batches
        As in `distiller.fit`.

    Returns
    -------
    list of Link
        In order; the last is the student. ``layer_epochs`` sums layers times epochs over the
        models trained so far: what the student has cost beyond the teacher.

    Raises
    ------
    InputError
        Depths that do not fall.

    Notes
    -----
    Mirzadeh et al. (2020), *Improved Knowledge Distillation via Teacher Assistant*, arXiv
    1902.03393.
    """
    has = len(layers_of(teacher))
    falls = all(low < high for high, low in pairwise([has, *depths]))
    if not depths or not falls or depths[-1] < 1:
        raise InputError(
            f"depths {tuple(depths)} must fall, from below the teacher's {has} layers to at least 1"
        )
    make = from_layers_of(teacher) if maker is None else maker
    links: list[Link] = []
    spent = 0.0
    for depth in depths:
        above = links[-1].model if links else teacher
        student = make(depth)
        known = cached(above, texts)
        objective = distillation(student, known, temperature=temperature, alpha=alpha)
        file = checkpoints / f"depth-{depth}.pt" if checkpoints else None
        train(objective, texts, recipe, checkpoint=file, bad_batches=bad_batches)
        spent += depth * recipe.epochs
        links.append(Link(student, depth, spent))
    return links


def as_long_as(links: Sequence[Link], recipe: Recipe) -> Recipe:
    """The recipe that trains the last student alone for what the whole chain has cost.

    A chain trains more models than direct distillation. This is the direct student's fair share:
    the same layer-epochs, all of them its own.
    """
    last = links[-1]
    return recipe.but(epochs=max(recipe.epochs, round(last.layer_epochs / last.depth)))
