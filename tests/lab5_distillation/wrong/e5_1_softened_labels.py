"""Divides the student's logits by T for the labels as well."""

import torch.nn.functional as F


def distillation_loss(student_logits, teacher_logits, labels, *, temperature, alpha):
    check(student_logits, teacher_logits, temperature, alpha)
    student = F.log_softmax(precise(student_logits) / temperature, dim=-1)
    teacher = F.log_softmax(precise(teacher_logits) / temperature, dim=-1)
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    hard = F.nll_loss(student, labels)
    return alpha * temperature**2 * soft + (1 - alpha) * hard
