"""Gives kl_div the student's probabilities, where it expects their logarithms."""

import torch.nn.functional as F


def distillation_loss(student_logits, teacher_logits, labels, *, temperature, alpha):
    check(student_logits, teacher_logits, temperature, alpha)
    student = F.softmax(precise(student_logits) / temperature, dim=-1)
    teacher = F.softmax(precise(teacher_logits) / temperature, dim=-1)
    soft = F.kl_div(student, teacher, reduction="batchmean")
    hard = F.cross_entropy(precise(student_logits), labels)
    return alpha * temperature**2 * soft + (1 - alpha) * hard
