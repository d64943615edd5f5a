"""Decoupled distillation: the teacher's certainty, and how it ranks the wrong classes, apart.

Hinton's divergence is a sum of two: one over (target, all others) and one over the others alone,
the second weighed by the probability that the teacher leaves them. A certain teacher thus silences
its own knowledge of the wrong classes. Decoupled, both parts get weights of the user's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab5_distillation.distillation_loss import check, precise


@dataclass(frozen=True)
class Decoupled:
    """Parts of KL(teacher || student), each [B]: it is ``target + left * others``.

    Attributes
    ----------
    target
        TCKD: the divergence of (target, all others), two classes.
    others
        NCKD: the divergence over the other classes alone, as if the target did not exist.
    left
        The teacher's probability of all others together, 1 - p_t.
    """

    target: Tensor
    others: Tensor
    left: Tensor


def targets(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Labels [B], and the teacher's first choice where a label is -1."""
    return torch.where(labels < 0, teacher_logits.argmax(-1), labels)


@exercise(
    "5.7",
    points=15,
    title="Decoupled distillation",
    hint="Stay in logarithms: 1 - p of a certain teacher is 0 in float32, but the logsumexp of the "
    "other log-probabilities is not. What must the other classes' probabilities add up to?",
)
def decouple(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, temperature: float
) -> Decoupled:
    """Target-class and non-target-class parts of KL(p || q), p and q softened by T.

    With ``b = (p_t, 1 - p_t)`` and ``p^ = p_i / (1 - p_t)`` for the classes i other than the
    target t (and the student's alike): ``TCKD = KL(b_teacher || b_student)`` and
    ``NCKD = KL(p^_teacher || p^_student)``. Neither has the factor T**2.

    Parameters
    ----------
    student_logits, teacher_logits
        Float tensors [B, C] with C >= 2; half precision is computed in float32.
    target
        Integer tensor [B], from 0 to C - 1.
    temperature
        T > 0.

    Raises
    ------
    InputError
        Logits of different shapes, ``temperature`` <= 0, or a target that is no class.

    Notes
    -----
    Zhao, Cui, Song, Qiu, Liang (2022), arXiv 2203.08679, section 3.1.
    """
    check(student_logits, teacher_logits, temperature, alpha=1.0)
    _check_targets(student_logits, target)
    # BEGIN SOLUTION
    others = torch.ones_like(student_logits, dtype=torch.bool).scatter_(1, target[:, None], False)

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        """log (p_t, 1 - p_t) [B, 2] and log p^ [B, C - 1]."""
        log_p = torch.log_softmax(precise(logits) / temperature, dim=-1)
        rest = log_p[others].view(len(log_p), -1)
        log_left = torch.logsumexp(rest, dim=-1, keepdim=True)
        return torch.cat([log_p.gather(1, target[:, None]), log_left], dim=1), rest - log_left

    (student_two, student_rest), (teacher_two, teacher_rest) = map(
        parts, (student_logits, teacher_logits)
    )
    return Decoupled(
        target=(teacher_two.exp() * (teacher_two - student_two)).sum(-1),
        others=(teacher_rest.exp() * (teacher_rest - student_rest)).sum(-1),
        left=teacher_two[:, 1].exp(),
    )
    # END SOLUTION


def _check_targets(logits: Tensor, target: Tensor) -> None:
    classes = logits.shape[-1]
    if bool(((target < 0) | (target >= classes)).any()):
        wrong = int(target[(target < 0) | (target >= classes)][0])
        raise InputError(f"target {wrong} must be from 0 to {classes - 1}, the number of a class")


def decoupled_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    /,
    *,
    temperature: float,
    target_weight: float = 1.0,
    others_weight: float = 1.0,
) -> Tensor:
    """``T**2 (target_weight TCKD + others_weight NCKD)`` [B], a `soft_losses.SoftLoss`.

    Parameters
    ----------
    labels
        The target class of each text; where it is -1 the teacher's first choice takes its place.
    target_weight, others_weight
        Zhao et al.'s alpha and beta, >= 0. Their beta, chosen for each pair of models, is 1 to 8
        on images and grows with how much higher the teacher's target logit is than the others.
    """
    for name, value in (("target_weight", target_weight), ("others_weight", others_weight)):
        require(value >= 0, name, value, "must be >= 0", "try 1.0")
    parts = decouple(
        student_logits, teacher_logits, targets(teacher_logits, labels), temperature=temperature
    )
    return temperature**2 * (target_weight * parts.target + others_weight * parts.others)
