"""One step of distillation, written out: what `distiller.fit` does for any objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from common.exercises import exercise

Forward = Callable[[nn.Module, Any], Any]
Loss = Callable[[Any, Any, Any], Tensor]
"""``loss(student's outputs, teacher's outputs, batch)`` -> scalar; a function or a module."""


def call_on_inputs(model: nn.Module, batch: Any) -> Any:
    """Outputs of a model for batches that are ``(inputs, labels)``."""
    return model(batch[0])


@exercise(
    "5.2",
    points=10,
    title="A distillation step",
    hint="Two models, two modes: ask of each whether dropout should be on and whether gradients "
    "should reach it. The gradients of the last batch are still there. And who says that only the "
    "student learns?",
)
def distil_step(
    student: nn.Module,
    teacher: nn.Module,
    batch: Any,
    optimizer: Optimizer,
    *,
    loss: Loss,
    max_norm: float | None = 1.0,
    forward: Forward = call_on_inputs,
) -> float:
    """Move the student one step towards the teacher's answers on one batch.

    The teacher answers as it would when served (evaluation mode, no graph); the student is in
    training mode. Gradients from before are cleared. The gradient is then clipped as one vector:
    of all that the optimizer moves, which is the student and whatever learns in ``loss``, such as
    a projection from the student's width to the teacher's.

    Parameters
    ----------
    student, teacher
        Any modules; either may be in either mode when the step begins.
    batch
        Whatever ``forward`` and ``loss`` read.
    optimizer
        Over the student's parameters and those of ``loss``, in any number of groups.
    loss
        ``loss(student's outputs, teacher's outputs, batch)`` -> scalar.
    max_norm
        Largest L2 norm of the gradient; None leaves it.
    forward
        ``forward(model, batch)`` -> outputs of either model.

    Returns
    -------
    float
        The loss before the step.

    Examples
    --------
    >>> optimizer = torch.optim.AdamW([*student.parameters(), *loss.parameters()], 1e-3)
    >>> distil_step(student, teacher, (x, y), optimizer, loss=loss)
    """
    teacher.eval()
    student.train()
    with torch.no_grad():
        target = forward(teacher, batch)
    value = loss(forward(student, batch), target, batch)
    optimizer.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    if max_norm is not None:
        learning = [each for group in optimizer.param_groups for each in group["params"]]
        nn.utils.clip_grad_norm_(learning, max_norm)
    optimizer.step()
    return float(value.detach())
