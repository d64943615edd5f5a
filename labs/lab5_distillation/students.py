"""Students made from a teacher's layers, or pretrained encoders by name, and the pair's labels.

Narrower students are in `width_pruning`, students with fewer words in `vocabulary_trimming`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab5_distillation.encoders import (
    TextClassifier,
    classifier,
    clone,
    layers_of,
    layers_path,
)
from labs.lab5_distillation.tokens import Tokens, require_same_tokens

Strategy = Literal["first", "last", "spread", "alternate"]


def layer_choice(has: int, keep: int, strategy: Strategy = "spread") -> tuple[int, ...]:
    """Which layers of a teacher a shallower student starts from.

    Parameters
    ----------
    has, keep
        Layers of the teacher and of the student, 1 <= keep <= has.
    strategy
        ``"first"``: the lowest. ``"last"``: the highest. ``"spread"``: evenly, both ends included
        (of one: the last, whose output the head knows); for 6 of 12 it gives 0, 2, 4, 7, 9, 11, as
        DistilBERT's own script does. ``"alternate"``: the first of each group of has / keep, which
        for half of the layers is every other one, as the paper says.

    Returns
    -------
    tuple of int
        Numbers of layers, ascending, the first is 0: what `by_depth` takes.

    Raises
    ------
    InputError
        An unknown strategy, or ``keep`` out of range.

    Notes
    -----
    Sanh et al. (2019), arXiv 1910.01108, section 2; Sajjad et al. (2020), arXiv 2004.03844, compare
    dropping from the top, the bottom and in between.
    """
    require(strategy in get_args(Strategy), "strategy", strategy, f"not in {get_args(Strategy)}")
    require(1 <= keep <= has, "keep", keep, f"must be from 1 to {has}, the teacher's layers")
    choices: dict[str, Callable[[], list[int]]] = {
        "first": lambda: list(range(keep)),
        "last": lambda: list(range(has - keep, has)),
        "spread": lambda: [
            round(place) for place in (np.linspace(0, has - 1, keep) if keep > 1 else (has - 1,))
        ],
        "alternate": lambda: [i * has // keep for i in range(keep)],
    }
    return tuple(choices[strategy]())


@exercise(
    "5.4",
    points=10,
    title="A student from the teacher's layers",
    hint="An assignment of a module or a tensor copies nothing. List what the teacher may keep to "
    "itself (weights, configuration, frozen gradients) and what the student must take over.",
)
def by_depth(teacher: TextClassifier, layers: Sequence[int]) -> TextClassifier:
    """The teacher with only the given layers of its encoder, in that order, and its own head.

    Nothing is shared: training the student leaves the teacher as it was, and a layer that is named
    twice becomes two. Every parameter of the student learns, though the teacher be frozen
    (`encoders.freeze_embeddings` comes afterwards). The student's config says how many layers it
    has; where it lists the kinds of layers (``layer_types``, ModernBERT), those of the kept ones.

    Parameters
    ----------
    layers
        Numbers of the teacher's layers, the first is 0: see `layer_choice`.

    Returns
    -------
    TextClassifier
        In the mode (training or not) of the teacher. With all layers it gives the teacher's logits.

    Raises
    ------
    InputError
        No layer, or one that the teacher lacks.

    Examples
    --------
    >>> student = by_depth(teacher, layer_choice(len(layers_of(teacher)), 2, "spread"))
    """
    has = len(layers_of(teacher))
    if not layers or any(not 0 <= layer < has for layer in layers):
        raise InputError(f"layers {tuple(layers)} must be some of 0 to {has - 1}, the teacher's")
    student = clone(teacher)
    kept = nn.ModuleList(copy.deepcopy(layers_of(teacher)[layer]) for layer in layers)
    where, name = layers_path(student).rsplit(".", 1)
    setattr(student.get_submodule(where), name, kept)
    config = student.encoder.config
    config.num_hidden_layers = len(kept)
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = [kinds[layer] for layer in layers]
    return student.requires_grad_(True)


def by_name(
    name: str,
    names: tuple[str, ...],
    *,
    teacher_tokens: Tokens | None = None,
    attention: str = "sdpa",
    dropout: float = 0.1,
) -> TextClassifier:
    """A small pretrained encoder with a new head, such as ``google/bert_uncased_L-4_H-512_A-8``.

    Parameters
    ----------
    name
        See `encoders.folder_of`: a folder, a name on the Hub, ``"minilm"``.
    names
        Labels in the order of the teacher's: ``teacher.names``.
    teacher_tokens
        The tokenizer that makes the batches. None leaves unchecked whether the student knows it.
    attention, dropout
        See `encoders.classifier`.

    Raises
    ------
    DataError
        The encoder cannot be had: the message names what was tried and how to supply a folder.
    InputError
        The student's token ids mean other words than the teacher's.
    """
    if teacher_tokens is not None:
        require_same_tokens(teacher_tokens, Tokens(name, teacher_tokens.max_tokens))
    return classifier(name, names, attention=attention, dropout=dropout)


def at_random(model: TextClassifier, seed: int = 0) -> TextClassifier:
    """The same architecture with weights drawn as before any pretraining, and a new head."""
    fresh = clone(model).requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: Any = type(model.encoder)(fresh.encoder.config)
        fresh.head.reset_parameters()
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    for new, old in zip(encoder.modules(), model.encoder.modules()):
        if isinstance(new, nn.Dropout) and isinstance(old, nn.Dropout):
            new.p = old.p
    fresh.encoder = encoder
    return fresh.to(model.head.weight.device).train(model.training)


def starts(
    teacher: TextClassifier, pretrained: TextClassifier, layers: Sequence[int], seed: int = 0
) -> dict[str, TextClassifier]:
    """One student three times, to see what its first weights are worth.

    Parameters
    ----------
    teacher
        Fine-tuned: its student has layers and a head that know the task.
    pretrained
        The encoder that the teacher was made from, with a head that nobody has trained.

    Returns
    -------
    dict
        ``"fine-tuned"``, ``"pretrained"`` and ``"random"``: students of one architecture.
    """
    check_pair(teacher, pretrained)
    students = {
        "fine-tuned": by_depth(teacher, layers),
        "pretrained": by_depth(pretrained, layers),
    }
    return {**students, "random": at_random(students["pretrained"], seed)}


def check_pair(teacher: TextClassifier, student: TextClassifier) -> None:
    """Refuse a pair whose logits do not mean the same labels, place by place.

    Raises
    ------
    InputError
        Names the first label that differs, or the numbers of labels, or a head whose width is not
        that of its labels.
    """
    for role, model in (("teacher", teacher), ("student", student)):
        if model.head.out_features != len(model.names):
            raise InputError(
                f"the {role}'s head gives {model.head.out_features} logits for its "
                f"{len(model.names)} labels"
            )
    ours, theirs = student.names, teacher.names
    lacking = [name for name in theirs if name not in ours]
    extra = [name for name in ours if name not in theirs]
    if lacking or extra:
        owner, name = ("teacher", lacking[0]) if lacking else ("student", extra[0])
        raise InputError(
            f"teacher and student have {len(theirs)} and {len(ours)} labels, and only the "
            f"{owner} has {name!r}; make the student with names=teacher.names"
        )
    for place, (theirs_here, ours_here) in enumerate(zip(theirs, ours)):
        if theirs_here != ours_here:
            raise InputError(
                f"label {place} is {theirs_here!r} for the teacher and {ours_here!r} for the "
                "student: the same labels in another order; make the student with "
                "names=teacher.names"
            )
