"""Sets the teacher to evaluation mode, and leaves the student in it after an evaluation."""

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
    with torch.no_grad():
        target = forward(teacher, batch)
    value = loss(forward(student, batch), target, batch)
    optimizer.zero_grad()
    value.backward()
    if max_norm is not None:
        learning = [each for group in optimizer.param_groups for each in group["params"]]
        nn.utils.clip_grad_norm_(learning, max_norm)
    optimizer.step()
    return float(value.detach())
