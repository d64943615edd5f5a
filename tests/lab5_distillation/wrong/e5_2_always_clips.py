"""Clips at 1 when it was told not to clip."""

import torch
from torch import nn


def distil_step(
    student,
    teacher,
    batch,
    optimizer,
    *,
    temperature,
    alpha,
    max_norm=1.0,
    forward=first_forward,
    labels=second_labels,
):
    teacher.eval()
    student.train()
    with torch.no_grad():
        target = forward(teacher, batch)
    loss = distillation_loss(
        forward(student, batch), target, labels(batch), temperature=temperature, alpha=alpha
    )
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(student.parameters(), max_norm or 1.0)
    optimizer.step()
    return float(loss.detach())
