"""Weighs the labels by the confidence of the teacher as well."""

import torch
import torch.nn.functional as F


def semi_supervised_loss(
    student_logits, teacher_logits, labels, *, temperature, alpha, weights=None
):
    check(student_logits, teacher_logits, temperature, alpha)
    student, teacher = precise(student_logits), precise(teacher_logits)
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    each = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    weights = torch.ones_like(each) if weights is None else weights
    soft = (weights * each).sum() / torch.where(weights.sum() > 0, weights.sum(), 1.0)
    errors = F.cross_entropy(student, labels, ignore_index=-1, reduction="none")
    hard = (weights * errors).sum() / (labels >= 0).sum().clamp(min=1)
    return alpha * temperature**2 * soft + (1 - alpha) * hard
