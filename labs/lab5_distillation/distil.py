"""Teacher-student training, for any pair of models that give logits over the same classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from common.errors import InputError, require
from common.statistics import bootstrap_ci
from labs.lab5_distillation.distillation_loss import distillation_loss

Forward = Callable[[nn.Module, Any], Tensor]
Labels = Callable[[Any], Tensor]
OnStep = Callable[[int, float], None]


def first_forward(model: nn.Module, batch: Any) -> Tensor:
    """Logits [B, C] for batches that are ``(inputs, labels)``."""
    logits: Tensor = model(batch[0])
    return logits


def second_labels(batch: Any) -> Tensor:
    """Labels [B] for batches that are ``(inputs, labels)``."""
    classes: Tensor = batch[1]
    return classes


def distil_step(
    student: nn.Module,
    teacher: nn.Module,
    batch: Any,
    optimizer: Optimizer,
    *,
    temperature: float,
    alpha: float,
    max_norm: float | None = 1.0,
    forward: Forward = first_forward,
    labels: Labels = second_labels,
) -> float:
    """Move the student one step towards the teacher's answers on one batch.

    The teacher answers as it would when served (evaluation mode) and takes no gradient; the
    student is in training mode. Gradients from before are cleared, and the student's are clipped.

    Parameters
    ----------
    student, teacher
        Modules whose logits have the same shape.
    batch
        Whatever ``forward`` and ``labels`` read.
    optimizer
        Over the student's parameters.
    temperature, alpha
        See ``distillation_loss``.
    max_norm
        Largest L2 norm of the student's gradient; None leaves it.
    forward, labels
        ``forward(model, batch)`` -> logits [B, C]; ``labels(batch)`` -> int [B].

    Returns
    -------
    float
        The loss before the step.
    """
    teacher.eval()
    student.train()
    with torch.no_grad():
        target = forward(teacher, batch)
    loss = distillation_loss(
        forward(student, batch), target, labels(batch), temperature=temperature, alpha=alpha
    )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if max_norm is not None:
        nn.utils.clip_grad_norm_(student.parameters(), max_norm)
    optimizer.step()
    return float(loss.detach())


def distil(
    student: nn.Module,
    teacher: nn.Module,
    loader: Iterable[Any],
    optimizer: Optimizer,
    *,
    epochs: int,
    temperature: float,
    alpha: float,
    max_norm: float | None = 1.0,
    scheduler: LRScheduler | None = None,
    forward: Forward = first_forward,
    labels: Labels = second_labels,
    on_step: OnStep | None = None,
) -> list[float]:
    """Train ``student`` on ``teacher`` for ``epochs`` passes over ``loader``.

    Parameters
    ----------
    loader
        Iterated once an epoch; the batches are passed to :func:`distil_step`.
    scheduler
        Stepped after every batch.
    on_step
        ``on_step(steps done, loss)`` after each batch.

    Returns
    -------
    list of float
        Mean loss of each epoch.

    Raises
    ------
    InputError
        ``epochs`` < 1, a loader without batches, or an optimizer that holds one of the teacher's
        parameters or none of the student's.
    """
    _check_optimizer(student, teacher, optimizer)

    def step(batch: Any) -> float:
        return distil_step(
            student,
            teacher,
            batch,
            optimizer,
            temperature=temperature,
            alpha=alpha,
            max_norm=max_norm,
            forward=forward,
            labels=labels,
        )

    return _loop(step, loader, epochs, scheduler, on_step)


def train_alone(
    model: nn.Module,
    loader: Iterable[Any],
    optimizer: Optimizer,
    *,
    epochs: int,
    max_norm: float | None = 1.0,
    scheduler: LRScheduler | None = None,
    forward: Forward = first_forward,
    labels: Labels = second_labels,
    on_step: OnStep | None = None,
) -> list[float]:
    """Train ``model`` on the labels only: a teacher, or the student's baseline.

    Without the same student trained like this, a distilled student's accuracy says nothing about
    distillation. Parameters as in :func:`distil`.
    """

    def step(batch: Any) -> float:
        model.train()
        loss = nn.functional.cross_entropy(forward(model, batch), labels(batch))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        return float(loss.detach())

    return _loop(step, loader, epochs, scheduler, on_step)


def _loop(
    step: Callable[[Any], float],
    loader: Iterable[Any],
    epochs: int,
    scheduler: LRScheduler | None,
    on_step: OnStep | None,
) -> list[float]:
    """Run ``step`` over every batch of every epoch; the mean loss of each epoch."""
    require(epochs >= 1, "epochs", epochs, "must be >= 1")
    means = []
    done = 0
    for _ in range(epochs):
        losses = []
        for batch in loader:
            losses.append(step(batch))
            done += 1
            if scheduler is not None:
                scheduler.step()
            if on_step is not None:
                on_step(done, losses[-1])
        if not losses:
            raise InputError("loader gave no batch")
        means.append(float(np.mean(losses)))
    return means


def _check_optimizer(student: nn.Module, teacher: nn.Module, optimizer: Optimizer) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own = {id(p) for p in student.parameters()}
    foreign = {id(p) for p in teacher.parameters()} - own
    if held & foreign:
        raise InputError("the optimizer holds parameters of the teacher; give it the student's")
    if not held & own:
        raise InputError("the optimizer holds no parameter of the student; build it from them")


@torch.no_grad()
def predict(model: nn.Module, loader: Iterable[Any], forward: Forward = first_forward) -> Tensor:
    """Logits [N, C] over all batches, on the CPU, in evaluation mode."""
    model.eval()
    return torch.cat([forward(model, batch).float().cpu() for batch in loader])


@dataclass(frozen=True)
class Retention:
    """Accuracy that the student keeps: student / teacher, with its 95 % interval."""

    student: float
    teacher: float
    value: float
    ci95: tuple[float, float]
    n: int


def retention(
    student_correct: ArrayLike, teacher_correct: ArrayLike, *, n_boot: int = 1000, seed: int = 0
) -> Retention:
    """Share of the teacher's accuracy that the student keeps, on the same test examples.

    The bootstrap resamples examples, not models: student and teacher are drawn together, since
    they mostly fail on the same examples and their ratio is known better than either accuracy.

    Parameters
    ----------
    student_correct, teacher_correct
        [n] of 0 and 1, or shares between them: the mean over several students or seeds.
    n_boot, seed
        See ``common.statistics.bootstrap_ci``.

    Raises
    ------
    InputError
        For different lengths, no example, or a teacher that is never right.
    """
    student = np.asarray(student_correct, dtype=float)
    teacher = np.asarray(teacher_correct, dtype=float)
    if student.shape != teacher.shape or student.ndim != 1 or not len(student):
        raise InputError(
            f"student_correct {student.shape} and teacher_correct {teacher.shape} must both be [n]"
        )
    if not teacher.any():
        raise InputError("the teacher is right on no example: there is no accuracy to keep")

    def ratio(rows: np.ndarray, axis: int) -> np.ndarray:
        drawn = rows.astype(int)
        # A resample on which the teacher is never right keeps nothing; it does not occur for n
        # in the hundreds.
        right = np.maximum(teacher[drawn].mean(axis=axis), 1 / len(teacher))
        return np.asarray(student[drawn].mean(axis=axis) / right)

    ci95 = bootstrap_ci(np.arange(len(student)), ratio, n_boot=n_boot, seed=seed)
    value = float(student.mean() / teacher.mean())
    return Retention(float(student.mean()), float(teacher.mean()), value, ci95, len(student))
