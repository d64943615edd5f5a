"""Studies of the loss: temperatures and weights, one soft loss against another, and its modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import InputError, require
from labs.lab5_distillation.encoders import TextClassifier
from labs.lab5_distillation.objectives import CachedTeacher
from labs.lab5_distillation.recipe import Recipe, accuracy, logits, train
from labs.lab5_distillation.soft_losses import (
    SoftLoss,
    divergence,
    forward_kl,
    log_probabilities,
    soft_distillation,
)
from labs.lab5_distillation.tokens import TokenSet


@dataclass(frozen=True)
class Judged:
    """A student on held-out texts.

    Attributes
    ----------
    loss
        Name of the soft loss.
    agreement
        Share of texts on which student and teacher choose the same class.
    divergence
        KL(teacher || student) at temperature 1, mean over texts, in nats.
    """

    loss: str
    temperature: float
    alpha: float
    accuracy: float
    agreement: float
    divergence: float


def loss_study(
    student_maker: Callable[[], TextClassifier],
    teacher_logits: Tensor,
    texts: TokenSet,
    held_out: TokenSet,
    held_out_logits: Tensor,
    recipe: Recipe,
    losses: Mapping[str, SoftLoss],
    *,
    temperature: float,
    alpha: float,
    on_row: Callable[[Judged], None] | None = None,
) -> list[Judged]:
    """The same student with each soft loss.

    Parameters
    ----------
    student_maker
        An untrained student, the same at each call.
    teacher_logits, held_out_logits
        The teacher's, [N, C] of ``texts`` and [M, C] of ``held_out``. Choose a setting on
        validation texts, never on the test texts.
    losses
        Name to loss.

    Returns
    -------
    list of Judged
        In the order of ``losses``; each costs ``recipe.epochs`` epochs of the student.
    """
    rows = []
    for name, loss in losses.items():
        student = student_maker()
        teacher = CachedTeacher(teacher_logits.to(texts.device))
        objective = soft_distillation(student, teacher, loss, temperature=temperature, alpha=alpha)
        train(objective, texts, recipe)
        found, expected = logits(student, held_out), held_out_logits.cpu()
        apart = divergence(log_probabilities(expected, 1.0), log_probabilities(found, 1.0))
        rows.append(
            Judged(
                loss=name,
                temperature=temperature,
                alpha=alpha,
                accuracy=accuracy(found, held_out),
                agreement=float((found.argmax(1) == expected.argmax(1)).double().mean()),
                divergence=float(apart.mean()),
            )
        )
        if on_row is not None:
            on_row(rows[-1])
    return rows


def temperature_study(
    student_maker: Callable[[], TextClassifier],
    teacher_logits: Tensor,
    texts: TokenSet,
    held_out: TokenSet,
    held_out_logits: Tensor,
    recipe: Recipe,
    temperatures: Sequence[float],
    alphas: Sequence[float],
    *,
    on_row: Callable[[Judged], None] | None = None,
) -> list[Judged]:
    """The same student for each temperature and weight of Hinton's loss; see `loss_study`.

    With ``alpha`` 0 the temperature changes nothing: that student, fine-tuned without a teacher,
    is trained once, for the first temperature.

    Raises
    ------
    InputError
        No temperature or no weight.
    """
    if not temperatures or not alphas:
        raise InputError(f"{len(temperatures)} temperatures and {len(alphas)} weights: give some")
    rows = []
    for alpha in alphas:
        for temperature in temperatures[:1] if alpha == 0 else temperatures:
            rows += loss_study(
                student_maker, teacher_logits, texts, held_out, held_out_logits, recipe,
                {"forward KL": forward_kl}, temperature=temperature, alpha=alpha, on_row=on_row,
            )  # fmt: skip
    return rows


def fit_one_peak(teacher: Tensor, loss: SoftLoss) -> Tensor:
    """Probabilities [C] of the best student with a single peak, for a teacher with any number.

    The student is a discretised normal density over the classes' numbers, with a mean and a width
    to choose: too small for a teacher with two peaks, as a small network is for a large one. The
    least loss over a grid of both is found by trying all.

    Parameters
    ----------
    teacher
        Probabilities [C], all above 0.
    """
    require(bool((teacher > 0).all()), "least probability", float(teacher.min()), "must be > 0")
    n = len(teacher)
    places = torch.arange(n, dtype=torch.float64)
    means = torch.linspace(0, n - 1, 4 * n, dtype=torch.float64)
    widths = torch.logspace(0, 1, 40, base=n / 2, dtype=torch.float64)
    grid = torch.cartesian_prod(means, widths)
    students = -0.5 * ((places - grid[:, :1]) / grid[:, 1:]) ** 2
    targets = teacher.double().log().expand_as(students)
    no_labels = torch.full((len(grid),), -1)
    best = int(loss(students, targets, no_labels, temperature=1.0).argmin())
    return torch.softmax(students[best], -1)
