"""Does not clear the gradients: each step repeats all steps before it."""

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
    value.backward()
    if max_norm is not None:
        learning = [each for group in optimizer.param_groups for each in group["params"]]
        nn.utils.clip_grad_norm_(learning, max_norm)
    optimizer.step()
    return float(value.detach())
