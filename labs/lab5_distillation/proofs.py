"""What the run shows of its own tools before it trusts them: the loss's gradient, and a resume."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from labs.lab5_distillation import recipe as recipes
from labs.lab5_distillation.distillation_loss import distillation_loss
from labs.lab5_distillation.encoders import TextClassifier
from labs.lab5_distillation.objectives import CachedTeacher
from labs.lab5_distillation.recipe import Recipe
from labs.lab5_distillation.tokens import TokenSet


def gradient_error(classes: int, *, texts: int = 64, seed: int = 0) -> float:
    """Largest difference between autograd and the closed form, in float64, over temperatures.

    ``dL/ds = (alpha T (q - p) + (1 - alpha) (softmax(s) - y)) / B``, with p and q the softened
    answers of teacher and student and y the labels, one-hot.
    """
    generator = torch.Generator().manual_seed(seed)
    teacher, given = (
        3 * torch.randn(texts, classes, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    labels = torch.randint(classes, (texts,), generator=generator)
    worst = 0.0
    for temperature in (0.5, 1.0, 4.0, 20.0):
        for alpha in (0.0, 0.5, 1.0):
            student = given.clone().requires_grad_(True)
            loss = distillation_loss(student, teacher, labels, temperature=temperature, alpha=alpha)
            (found,) = torch.autograd.grad(loss, student)
            soft = (given / temperature).softmax(1) - (teacher / temperature).softmax(1)
            hard = given.softmax(1) - F.one_hot(labels, classes)
            expected = (alpha * temperature * soft + (1 - alpha) * hard) / texts
            worst = max(worst, float((found - expected).abs().nan_to_num(torch.inf).max()))
    return worst


class _Stopped(Exception):
    """Ends a training from inside, as a killed process would."""


def resume_difference(
    make: Callable[[], TextClassifier],
    answers: CachedTeacher,
    texts: TokenSet,
    recipe: Recipe,
    *,
    stop_after: int,
) -> float:
    """Last loss of a distillation, less that of the same one stopped and gone on with.

    Parameters
    ----------
    make
        Gives the untrained student, the same at each call.
    stop_after
        Steps until the stop; the last checkpoint before it is a step older.
    """

    def train(checkpoint: Path | None, stop: int | None) -> float:
        last = 0.0

        def on_step(done: int, loss: float) -> None:
            nonlocal last
            last = loss
            if done == stop:
                raise _Stopped

        objective = recipes.distillation(make(), answers, temperature=4.0, alpha=1.0)
        recipes.train(
            objective, texts, recipe, on_step=on_step, checkpoint=checkpoint, every=stop_after - 1
        )
        return last

    whole = train(None, None)
    with tempfile.TemporaryDirectory(prefix="resume-") as folder:
        file = Path(folder) / "student.checkpoint"
        try:
            train(file, stop_after)
        except _Stopped:
            torch.manual_seed(12345)  # a new process would not have the old one's generator
        return abs(train(file, None) - whole)
