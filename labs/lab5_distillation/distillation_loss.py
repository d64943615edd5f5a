"""The distillation loss: learn from a teacher's probabilities and from the labels at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.exercises import exercise


@exercise(
    "5.1",
    points=5,
    title="Distillation loss",
    hint="Soften both distributions by T, take KL(teacher || student) per example, and undo what "
    "T does to the size of the gradients.",
)
def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
) -> Tensor:
    """Hinton's loss: ``alpha T^2 KL(p_T || q_T) + (1 - alpha) CE(labels, q_1)``, a mean per example.

    ``p_T`` and ``q_T`` are the softmax of the teacher's and the student's logits divided by T.
    Softening divides the gradient of the KL by about T^2, so the factor T^2 keeps the balance of
    the two terms when T changes.

    Parameters
    ----------
    student_logits, teacher_logits : [B, C]
        The teacher's carry no gradient.
    labels : [B]
        Class indices.
    temperature
        T > 0; 1 leaves the teacher's probabilities as they are.
    alpha
        Weight of the teacher, in [0, 1].

    References
    ----------
    Hinton, Vinyals & Dean 2015, Distilling the Knowledge in a Neural Network (arXiv 1503.02531),
    section 2.
    """
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    student = F.log_softmax(student_logits / temperature, dim=-1)
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
    return alpha * soft + (1 - alpha) * F.cross_entropy(student_logits, labels)


def binary_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
) -> Tensor:
    """:func:`distillation_loss` for a yes/no head: logits [B] and labels [B] in {0, 1}.

    A Bernoulli with logit z is the softmax over (0, z), at any temperature.
    """

    def both(logits: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(logits), logits], dim=-1)

    return distillation_loss(
        both(student_logits),
        both(teacher_logits),
        labels.long(),
        temperature=temperature,
        alpha=alpha,
    )
