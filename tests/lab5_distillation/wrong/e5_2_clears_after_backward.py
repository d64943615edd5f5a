"""Clears the gradients between backward and step: nothing is ever learnt."""

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
    loss.backward()
    optimizer.zero_grad()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(student.parameters(), max_norm)
    optimizer.step()
    return float(loss.detach())
