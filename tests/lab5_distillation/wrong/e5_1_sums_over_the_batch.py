"""Sums over the texts: the loss and its gradient grow with the batch."""

import torch.nn.functional as F


def distillation_loss(student_logits, teacher_logits, labels, *, temperature, alpha):
    check(student_logits, teacher_logits, temperature, alpha)
    student, teacher = precise(student_logits), precise(teacher_logits)
    student_log = F.log_softmax(student / temperature, dim=-1)
    teacher_log = F.log_softmax(teacher / temperature, dim=-1)
    soft = F.kl_div(student_log, teacher_log, reduction="sum", log_target=True)
    hard = F.cross_entropy(student, labels, reduction="sum")
    return alpha * temperature**2 * soft + (1 - alpha) * hard
