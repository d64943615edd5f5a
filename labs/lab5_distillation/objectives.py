"""What is minimised: a module that holds the student and all else that learns with it.

``objective(batch)`` is the loss. Its parameters are all that may change: the student, and whatever
a method adds (projections, heads). An optimizer and a clipping over ``objective.parameters()``
therefore miss nothing. A teacher is no part of it: it is a function from a batch to logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError, require
from labs.lab5_distillation.distillation_loss import distillation_loss

Forward = Callable[[nn.Module, Any], Tensor]
"""``forward(model, batch)`` -> logits [B, C]."""
Labels = Callable[[Any], Tensor]
"""``labels(batch)`` -> int [B]."""
Teacher = Callable[[Any], Tensor]
"""``teacher(batch)`` -> logits [B, C], without a graph: `FrozenTeacher` or `CachedTeacher`."""


def first_forward(model: nn.Module, batch: Any) -> Tensor:
    """Logits for batches that are ``(inputs, labels)``."""
    logits: Tensor = model(batch[0])
    return logits


def second_labels(batch: Any) -> Tensor:
    """Labels of batches that are ``(inputs, labels)``."""
    classes: Tensor = batch[1]
    return classes


class FrozenTeacher:
    """A model that answers as when served: evaluation mode, no gradients.

    It is no ``nn.Module``, so that no ``train()``, optimizer or checkpoint of the student's
    reaches it.
    """

    def __init__(
        self, model: nn.Module, forward: Callable[[nn.Module, Any], Any] = first_forward
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.forward = forward

    def __call__(self, batch: Any) -> Any:
        self.model.eval()
        with torch.no_grad():
            return self.forward(self.model, batch)


class CachedTeacher:
    """Logits that a teacher gave once, [N, C], found by ``batch.rows``.

    Right only for batches that are the same in every epoch; where texts are augmented, ask the
    teacher itself.
    """

    def __init__(self, logits: Tensor) -> None:
        if logits.ndim != 2:
            raise InputError(f"cached logits must be [N, C], not {tuple(logits.shape)}")
        self.logits = logits

    def __call__(self, batch: Any) -> Tensor:
        return self.logits[batch.rows]


class Objective(nn.Module):
    """Base: ``student`` is the model that stays when training is over."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: Any) -> Tensor:
        """The loss of a batch: a scalar, the mean over its examples."""
        raise NotImplementedError


class Supervised(Objective):
    """Cross-entropy with the labels: how a teacher learns, and every student's baseline."""

    def __init__(
        self,
        student: nn.Module,
        *,
        label_smoothing: float = 0.0,
        forward: Forward = first_forward,
        labels: Labels = second_labels,
    ) -> None:
        super().__init__(student)
        self.label_smoothing = label_smoothing
        self.read, self.labels = forward, labels

    def forward(self, batch: Any) -> Tensor:
        return F.cross_entropy(
            self.read(self.student, batch), self.labels(batch), label_smoothing=self.label_smoothing
        )


class Distillation(Objective):
    """The teacher's softened answers and the labels (`distillation_loss`)."""

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        *,
        temperature: float,
        alpha: float,
        forward: Forward = first_forward,
        labels: Labels = second_labels,
    ) -> None:
        super().__init__(student)
        self.teacher = teacher
        self.temperature, self.alpha = temperature, alpha
        self.read, self.labels = forward, labels

    def forward(self, batch: Any) -> Tensor:
        return distillation_loss(
            self.read(self.student, batch),
            self.teacher(batch),
            self.labels(batch),
            temperature=self.temperature,
            alpha=self.alpha,
        )


class TaskDistillation(Objective):
    """Any task and any heads: a ranker that predicts clicks and likes, say.

    ``(1 - alpha) * task_loss(outputs, batch) + alpha * soft_loss(outputs, teacher's, batch)``

    Parameters
    ----------
    teacher
        ``teacher(batch)`` -> outputs of the same form as the student's.
    task_loss
        ``task_loss(student's outputs, batch)`` -> scalar: what is learnt without a teacher.
    soft_loss
        ``soft_loss(student's outputs, teacher's outputs, batch)`` -> scalar. A module with
        parameters of its own, such as projections, learns with the student.
    alpha
        Weight of the teacher. At 0 it is not asked, at 1 the labels are not read.
    forward
        ``forward(model, batch)`` -> outputs: a tensor, or a tuple, list or dict of them.

    Raises
    ------
    InputError
        Outputs of different forms: other heads, or the same in another order.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Callable[[Any], Any],
        task_loss: Callable[[Any, Any], Tensor],
        soft_loss: Callable[[Any, Any, Any], Tensor],
        *,
        alpha: float,
        forward: Callable[[nn.Module, Any], Any] = first_forward,
    ) -> None:
        super().__init__(student)
        require(0 <= alpha <= 1, "alpha", alpha, "must be from 0 to 1", "try 0.5")
        self.teacher, self.alpha, self.read = teacher, alpha, forward
        self.task_loss, self.soft_loss = task_loss, soft_loss

    def forward(self, batch: Any) -> Tensor:
        outputs = self.read(self.student, batch)
        if self.alpha == 0:
            return self.task_loss(outputs, batch)
        target = self.teacher(batch)
        require_same_heads(outputs, target)
        soft = self.alpha * self.soft_loss(outputs, target, batch)
        return soft if self.alpha == 1 else soft + (1 - self.alpha) * self.task_loss(outputs, batch)


def require_same_heads(student: Any, teacher: Any) -> None:
    """Refuse outputs that have different heads.

    Raises
    ------
    InputError
        One is a dict and the other none, or their keys, or their numbers of tensors differ.
    """

    def heads(outputs: Any) -> str:
        if isinstance(outputs, dict):
            return f"a dict of {', '.join(sorted(map(str, outputs)))}"
        return f"{len(outputs)} outputs" if isinstance(outputs, tuple | list) else "one output"

    ours, theirs = heads(student), heads(teacher)
    if ours != theirs:
        raise InputError(f"the student gives {ours} and the teacher {theirs}; they must be alike")
