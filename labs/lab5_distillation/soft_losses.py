"""Soft losses other than Hinton's, with one signature, so that they can be compared.

Each gives one value per text, [B]: a weighted mean stays possible, and the mean over the batch is
the loss. `SoftDistillation` trains with any of them.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import require
from labs.lab5_distillation.distillation_loss import check, precise
from labs.lab5_distillation.encoders import read
from labs.lab5_distillation.objectives import (
    Forward,
    Labels,
    Objective,
    Teacher,
    first_forward,
    second_labels,
)
from labs.lab5_distillation.recipe import batch_labels


class SoftLoss(Protocol):
    """``loss(student_logits [B, C], teacher_logits [B, C], labels [B], temperature=T)`` -> [B].

    Those that need no labels do not read them. Keywords of their own have defaults; others are
    bound with `functools.partial`.
    """

    def __call__(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, /, *,
        temperature: float,
    ) -> Tensor: ...  # fmt: skip


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Softened log-probabilities of logits [..., C], in float32 at least."""
    return F.log_softmax(precise(logits) / temperature, dim=-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats of log-probabilities [..., C], over the last dimension."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def forward_kl(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, /, *, temperature: float
) -> Tensor:
    """``T**2 KL(teacher || student)`` [B]: Hinton's soft part.

    The student pays where the teacher has probability and it has none, so it covers all that the
    teacher finds possible (mean-seeking, or mode-covering).
    """
    check(student_logits, teacher_logits, temperature, alpha=1.0)
    log_p = log_probabilities(teacher_logits, temperature)
    return temperature**2 * divergence(log_p, log_probabilities(student_logits, temperature))


def reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, /, *, temperature: float
) -> Tensor:
    """``T**2 KL(student || teacher)`` [B].

    The student pays where it has probability and the teacher has none: too small to cover every
    mode, it takes one and leaves the others (mode-seeking).

    Notes
    -----
    Gu, Dong, Wei, Huang (2024), MiniLLM, arXiv 2306.08543, section 2.1.
    """
    check(student_logits, teacher_logits, temperature, alpha=1.0)
    log_q = log_probabilities(student_logits, temperature)
    return temperature**2 * divergence(log_q, log_probabilities(teacher_logits, temperature))


def jensen_shannon(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    /,
    *,
    temperature: float,
    beta: float = 0.5,
) -> Tensor:
    """Generalised Jensen-Shannon divergence times ``T**2`` [B]; bounded, so no text dominates.

    ``beta KL(p || m) + (1 - beta) KL(q || m)`` with the teacher's p, the student's q and
    ``m = beta p + (1 - beta) q``.

    Parameters
    ----------
    beta
        Above 0 and below 1. Divided by ``beta`` it tends to KL(p || q) for beta to 0, and divided
        by ``1 - beta`` to KL(q || p) for beta to 1.

    Notes
    -----
    Agarwal et al. (2024), GKD, arXiv 2306.13649, equation 1.
    """
    check(student_logits, teacher_logits, temperature, alpha=1.0)
    require(0 < beta < 1, "beta", beta, "must be above 0 and below 1", "try 0.5")
    log_p = log_probabilities(teacher_logits, temperature)
    log_q = log_probabilities(student_logits, temperature)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    mixed = beta * divergence(log_p, log_m) + (1 - beta) * divergence(log_q, log_m)
    return temperature**2 * mixed


def mse_on_logits(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, /, *, temperature: float
) -> Tensor:
    """``1 / (2 C)`` times the squared distance of the logits [B]; the temperature is not read.

    This is `forward_kl` for a temperature without bound, but for one term: a softmax does not see
    a constant added to all logits, this loss does. With d the difference of the logits,
    ``lim forward_kl = mse_on_logits - mean(d)**2 / 2``.

    Notes
    -----
    Ba and Caruana (2014), arXiv 1312.6184, equation 1; Kim, Oh, Kim, Cho, Yun (2021), arXiv
    2105.08919, who compare it with the KL divergence over temperatures.
    """
    check(student_logits, teacher_logits, temperature, alpha=1.0)
    return 0.5 * (precise(student_logits) - precise(teacher_logits)).square().mean(-1)


class SoftDistillation(Objective):
    """``alpha * mean(loss) + (1 - alpha) * CE``: any soft loss, under any recipe.

    Parameters
    ----------
    loss
        `forward_kl` makes this the same as `objectives.Distillation`.
    alpha
        Weight of the soft targets, 0 to 1. With 1 labels are read only by a loss that does.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        loss: SoftLoss,
        *,
        temperature: float,
        alpha: float,
        forward: Forward = first_forward,
        labels: Labels = second_labels,
    ) -> None:
        super().__init__(student)
        require(0 <= alpha <= 1, "alpha", alpha, "must be from 0 to 1", "try 0.5")
        self.teacher, self.loss = teacher, loss
        self.temperature, self.alpha = temperature, alpha
        self.read, self.labels = forward, labels

    def forward(self, batch: object) -> Tensor:
        """The loss of a batch, a scalar."""
        logits, labels = self.read(self.student, batch), self.labels(batch)
        soft = self.loss(logits, self.teacher(batch), labels, temperature=self.temperature).mean()
        if self.alpha == 1:
            return soft
        return self.alpha * soft + (1 - self.alpha) * F.cross_entropy(precise(logits), labels)


def soft_distillation(
    student: nn.Module, teacher: Teacher, loss: SoftLoss, *, temperature: float, alpha: float
) -> SoftDistillation:
    """`SoftDistillation` for text classifiers."""
    return SoftDistillation(
        student, teacher, loss, temperature=temperature, alpha=alpha,
        forward=read, labels=batch_labels,
    )  # fmt: skip
