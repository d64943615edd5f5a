"""Multiplies probabilities with their logarithm: 0 * -inf is NaN for a class that is ruled out."""

import torch.nn.functional as F


def distillation_loss(student_logits, teacher_logits, labels, *, temperature, alpha):
    check(student_logits, teacher_logits, temperature, alpha)
    student = F.log_softmax(precise(student_logits) / temperature, dim=-1)
    teacher = F.log_softmax(precise(teacher_logits) / temperature, dim=-1)
    p, q = teacher.exp(), student.exp()
    soft = (p * (p.log() - q.log())).sum(-1).mean()
    hard = F.cross_entropy(precise(student_logits), labels)
    return alpha * temperature**2 * soft + (1 - alpha) * hard
