"""Few labels and many texts: what a student gains from texts that nobody labelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import InputError, require
from labs.lab5_distillation.encoders import TextClassifier
from labs.lab5_distillation.label_free import (
    above,
    few_per_class,
    join,
    pseudo_labelled,
    semi_supervised,
    subset,
)
from labs.lab5_distillation.objectives import Objective
from labs.lab5_distillation.recipe import Recipe, accuracy, cached, logits, supervised, train
from labs.lab5_distillation.tokens import TokenSet

TEACHER = "teacher, labels"
LABELS = "student, labels"
SOFT_FEW = "student, soft targets, labelled texts"
SOFT_ALL = "student, soft targets, all texts"
SOFT_SURE = "student, soft targets, confident texts"
HARD_ALL = "student, pseudo-labels, all texts"
HARD_SURE = "student, pseudo-labels, confident texts"
METHODS = (LABELS, SOFT_FEW, SOFT_ALL, SOFT_SURE, HARD_ALL, HARD_SURE)


@dataclass(frozen=True)
class FewLabels:
    """One model of the study on the test texts.

    Attributes
    ----------
    method
        `TEACHER`, one of `METHODS`, or ``"student, soft targets, <name of an extra pool>"``.
    per_class
        Labelled texts of each class.
    texts
        Different texts that the model learned from, labelled or not.
    agreement
        Share of test texts on which it chooses what the teacher chooses.
    """

    method: str
    per_class: int
    seed: int
    texts: int
    accuracy: float
    agreement: float


def as_many_steps(recipe: Recipe, texts: int, reference: int) -> Recipe:
    """The recipe with epochs over ``texts`` that make as many steps as over ``reference``.

    A student that sees fewer texts sees each more often; otherwise a comparison of pools of texts
    would be one of training times.
    """
    return recipe.but(epochs=max(1, round(recipe.epochs * reference / texts)))


def few_labels_study(
    make_teacher: Callable[[], TextClassifier],
    make_student: Callable[[TextClassifier], TextClassifier],
    texts: TokenSet,
    test: TokenSet,
    recipe: Recipe,
    *,
    teacher_recipe: Recipe,
    per_class: int = 10,
    seeds: Sequence[int] = (0,),
    methods: Sequence[str] = METHODS,
    extra: Mapping[str, TokenSet] | None = None,
    temperature: float = 2.0,
    alpha: float = 1.0,
    threshold: float = 0.8,
    on_row: Callable[[FewLabels], None] | None = None,
    bad_batches: Path | None = None,
) -> list[FewLabels]:
    """A teacher that learned from few labels, and students of it with and without the other texts.

    Every student begins as the same one, ``make_student(teacher)``, and takes as many steps as
    ``recipe`` makes over all texts. The labels of the unlabelled texts are not looked at.

    Parameters
    ----------
    make_teacher
        An untrained classifier, such as ``lambda: classifier("minilm", names)``.
    make_student
        A student of a trained teacher, such as ``lambda teacher: by_depth(teacher, (0, 5))``.
    texts
        Labelled training texts [N]; ``per_class`` of each class keep their label.
    teacher_recipe
        Of the teacher, on the labelled texts; both recipes get each seed in turn.
    extra
        Name to texts of elsewhere: each is a pool for one more student, with the labelled texts.
    alpha
        Weight of the soft targets; what is left goes to the labels of the few.
    threshold
        Confidence that `SOFT_SURE` and `HARD_SURE` ask for.
    bad_batches
        As in `distiller.fit`.

    Returns
    -------
    list of FewLabels
        For each seed the teacher and then the students. Cost: for each seed a teacher on the few
        texts, and ``recipe.epochs`` epochs of a student on N texts for each method and pool.

    Raises
    ------
    InputError
        A method that is none of `METHODS`, no seed, or a class with fewer texts than ``per_class``.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise InputError(f"method {unknown[0]!r} must be one of {METHODS}")
    require(len(seeds) >= 1, "number of seeds", len(seeds), "must be at least 1")
    rows = []
    for seed in seeds:
        chosen = few_per_class(texts.labels, per_class, seed=seed)
        torch.manual_seed(seed)
        teacher = make_teacher()
        few = subset(texts, chosen)
        own = teacher_recipe.but(seed=seed)
        train(supervised(teacher), few, own, bad_batches=bad_batches)
        learn = partial(semi_supervised, temperature=temperature, alpha=alpha)
        plans = [_plan(method, texts, chosen, teacher, learn, threshold) for method in methods] + [
            _elsewhere(name, few, found, teacher, learn) for name, found in (extra or {}).items()
        ]
        reference = logits(teacher, test).argmax(1)
        for plan in [_Plan(TEACHER, few, None), *plans]:
            model = teacher
            if plan.objective is not None:
                model = make_student(teacher)
                steps = as_many_steps(recipe, len(plan.texts), len(texts)).but(seed=seed)
                train(plan.objective(model), plan.texts, steps, bad_batches=bad_batches)
            found = logits(model, test)
            row = FewLabels(
                method=plan.method,
                per_class=per_class,
                seed=seed,
                texts=len(plan.texts),
                accuracy=accuracy(found, test),
                agreement=float((found.argmax(1) == reference).double().mean()),
            )
            rows.append(row)
            if on_row is not None:
                on_row(row)
    return rows


@dataclass(frozen=True)
class _Plan:
    """What a student learns from, and how; the teacher has learned already."""

    method: str
    texts: TokenSet
    objective: Callable[[TextClassifier], Objective] | None


def _plan(
    method: str,
    texts: TokenSet,
    chosen: NDArray[np.int64],
    teacher: TextClassifier,
    learn: Callable[..., Objective],
    threshold: float,
) -> _Plan:
    """One of `METHODS`, with the labels of the chosen rows only."""
    few = subset(texts, chosen)
    if method == LABELS:
        return _Plan(method, few, supervised)
    labels = np.full(len(texts), -1, np.int64)
    labels[chosen] = texts.labels[chosen]
    pool = few if method == SOFT_FEW else TokenSet(texts.ids, labels, texts.device)
    answers = cached(teacher, pool)
    if method in (HARD_ALL, HARD_SURE):
        least = threshold if method == HARD_SURE else 0.0
        return _Plan(method, pseudo_labelled(pool, answers.logits, least), supervised)
    weigh = above(threshold) if method == SOFT_SURE else None
    return _Plan(method, pool, lambda student: learn(student, answers, weigh=weigh))


def _elsewhere(
    name: str,
    few: TokenSet,
    found: TokenSet,
    teacher: TextClassifier,
    learn: Callable[..., Objective],
) -> _Plan:
    """Soft targets for the labelled texts and for texts of elsewhere."""
    mix = join(few, found.without_labels())
    answers = cached(teacher, mix)
    return _Plan(f"student, soft targets, {name}", mix, lambda student: learn(student, answers))
