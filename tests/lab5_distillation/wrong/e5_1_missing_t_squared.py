"""Leaves out T squared: the labels drown the teacher as T rises."""

import torch.nn.functional as F


def distillation_loss(student_logits, teacher_logits, labels, *, temperature, alpha):
    check(student_logits, teacher_logits, temperature, alpha)
    student = F.log_softmax(precise(student_logits) / temperature, dim=-1)
    teacher = F.log_softmax(precise(teacher_logits) / temperature, dim=-1)
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    hard = F.cross_entropy(precise(student_logits), labels)
    return alpha * soft + (1 - alpha) * hard
