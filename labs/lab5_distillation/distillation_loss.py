"""The loss of Hinton, Vinyals and Dean (2015): soft labels of a teacher beside the hard ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InputError, require
from common.exercises import exercise


def check(student_logits: Tensor, teacher_logits: Tensor, temperature: float, alpha: float) -> None:
    """Refuse what would silently be another loss.

    Raises
    ------
    InputError
        Logits of different shapes, ``temperature`` <= 0 or ``alpha`` outside 0 to 1.
    """
    if student_logits.shape != teacher_logits.shape:
        raise InputError(
            f"student logits {tuple(student_logits.shape)} and teacher logits "
            f"{tuple(teacher_logits.shape)} must have the same shape and order of classes"
        )
    require(temperature > 0, "temperature", temperature, "must be > 0", "try 2.0")
    require(0 <= alpha <= 1, "alpha", alpha, "must be from 0 to 1", "try 0.5")


def precise(logits: Tensor) -> Tensor:
    """Logits in float32 at least: a divergence is a small difference of large logarithms.

    bfloat16 has 8 bits: near a logarithm of -10 its values are 0.06 apart. Autocast on a GPU takes
    log_softmax in float32 by itself; autocast on a CPU leaves bfloat16 logits as they are.
    """
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@exercise(
    "5.1",
    points=10,
    title="Distillation loss",
    hint="F.kl_div takes log-probabilities of the student first. Look up what its reductions "
    "divide by, and how the gradient of a softened softmax shrinks as the temperature grows. "
    "`precise` is there for logits that come in half precision.",
)
def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
) -> Tensor:
    """Soft and hard targets in one loss.

    ``alpha * T**2 * KL(p || q) + (1 - alpha) * CE(labels, softmax(student))`` with
    ``p = softmax(teacher / T)`` and ``q = softmax(student / T)``, each the mean over the batch.

    Parameters
    ----------
    student_logits, teacher_logits
        Float tensors [B, C], classes in the same order; half precision is computed in float32.
        A class may be ruled out by a large negative logit, not by -inf, whose KL is not defined.
    labels
        Integer tensor [B]. Not read when ``alpha`` is 1: texts without labels have -1 there.
    temperature
        T > 0. A higher one shows more of how the teacher ranks the wrong classes. The factor T**2
        keeps the soft gradient's size, which falls as 1/T**2.
    alpha
        Weight of the soft targets, 0 to 1; with 0 the loss is plain cross-entropy.

    Returns
    -------
    Tensor
        Scalar, float32 or float64.

    Notes
    -----
    Hinton, Vinyals, Dean (2015), arXiv 1503.02531, section 2. The gradient of the soft part for
    one logit is ``alpha * T / B * (q - p)``; for a large T that is ``alpha / (B C)`` times the
    difference of the centred logits.

    Examples
    --------
    >>> distillation_loss(student(x), teacher(x), y, temperature=2.0, alpha=0.5).backward()
    """
    check(student_logits, teacher_logits, temperature, alpha)
    student, teacher = precise(student_logits), precise(teacher_logits)
    soft = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    if alpha == 1:
        return soft
    return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)


def binary_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    mask: Tensor | None = None,
) -> Tensor:
    """:func:`distillation_loss` for yes/no heads that give one logit each.

    A Bernoulli head with logit z is a softmax over the logits (0, z), so its KL divergence is
    that of two classes.

    Parameters
    ----------
    student_logits, teacher_logits
        Float tensors of one shape [...].
    labels
        0 or 1, the same shape.
    temperature, alpha
        As in :func:`distillation_loss`.
    mask
        Bool tensor of the same shape: entries that count. None: all of them.

    Returns
    -------
    Tensor
        Scalar, the mean over the entries that count.

    Raises
    ------
    InputError
        When no entry counts, or as in :func:`distillation_loss`.
    """
    check(student_logits, teacher_logits, temperature, alpha)
    chosen = torch.ones_like(student_logits, dtype=torch.bool) if mask is None else mask
    if not chosen.any():
        raise InputError("mask selects no entry: the mean over none is not defined")

    def two_classes(logits: Tensor) -> Tensor:
        kept = logits[chosen]
        return torch.stack([torch.zeros_like(kept), kept], dim=-1)

    return distillation_loss(
        two_classes(student_logits),
        two_classes(teacher_logits),
        labels[chosen].long(),
        temperature=temperature,
        alpha=alpha,
    )
