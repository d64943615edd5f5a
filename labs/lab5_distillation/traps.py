"""Silent failures of distillation: it trains, and the student learns less than it could.

Run them with ``python -m labs.lab5_distillation.traps [name]``.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.traps import Trap, show
from labs.lab5_distillation.distil import distil, predict, train_alone
from labs.lab5_distillation.distillation_loss import distillation_loss

CLASSES = 77
Batches = list[tuple[Tensor, Tensor]]


def _logits() -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher logits [32, 77] and labels (synthetic)."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(32, CLASSES, generator=generator) for _ in range(2))
    return student, teacher, teacher.argmax(1)


def the_mean_over_everything() -> Trap:
    """kl_div's default reduction divides by the classes too."""
    student, teacher, _ = _logits()
    q, p = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says it once in a process, among other lines
        means = {
            reduction: F.kl_div(q, p, reduction=reduction, log_target=True).item()
            for reduction in ("mean", "batchmean")
        }
    return Trap(
        f"kl_div(reduction='mean') over {CLASSES} classes",
        wrong=("KL divergence, reduction='mean' (the default)", means["mean"]),
        right=("KL divergence, reduction='batchmean'", means["batchmean"]),
        why=f"'mean' divides by the number of elements, so the soft loss is {CLASSES} times too "
        "small, and alpha no longer means what it says: the student learns from the labels alone.",
    )


def the_vanishing_teacher() -> Trap:
    """Without T squared the soft gradient falls as 1 / T^2."""
    student, teacher, labels = _logits()

    def gradient(temperature: float, alpha: float) -> float:
        x = student.clone().requires_grad_(True)
        distillation_loss(x, teacher, labels, temperature=temperature, alpha=alpha).backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        return x.grad.norm().item()

    shares = {t: gradient(t, 1.0) / gradient(t, 0.0) for t in (1, 2, 4, 8)}
    return Trap(
        "Leaving out the factor T squared",
        wrong=(
            "soft gradient / hard gradient at T = 1, 2, 4, 8, without T^2",
            [round(share / t**2, 3) for t, share in shares.items()],
        ),
        right=(
            "the same with T^2",
            [round(share, 3) for share in shares.values()],
        ),
        why="Softening divides the gradient by T twice: once in the logits, once in how far the "
        "two distributions are apart. Whoever tries temperatures without the factor tries weights "
        "of the teacher at the same time. At T = 8 the labels decide alone; it still converges.",
    )


class _Noisy(nn.Module):
    """A classifier with dropout; ``always_on`` leaves it on in evaluation mode."""

    def __init__(self, width: int, dropout: float, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(20, width), nn.Linear(width, 10)
        self.dropout, self.always_on = dropout, False

    def forward(self, x: Tensor) -> Tensor:
        on = self.training or self.always_on
        logits: Tensor = self.last(F.dropout(torch.relu(self.first(x)), self.dropout, on))
        return logits


@cache
def _task() -> tuple[Batches, Batches, _Noisy]:
    """Training and test batches of ten classes (synthetic), and a teacher with dropout."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20, 10, generator=generator)

    def examples(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 20, generator=generator)
        return x, (x @ truth + 2 * torch.randn(n, 10, generator=generator)).argmax(1)

    train = [examples(64) for _ in range(20)]
    test = [examples(4000)]
    teacher = _Noisy(128, 0.7, seed=1)
    torch.manual_seed(3)
    train_alone(teacher, train, torch.optim.Adam(teacher.parameters(), 3e-3), epochs=20)
    return train, test, teacher


def _student_of(teacher: nn.Module, train: Batches, alpha: float) -> nn.Module:
    """A small model without dropout, distilled from the same initial weights every time."""
    student = _Noisy(24, 0.0, seed=2)
    torch.manual_seed(3)
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    distil(student, teacher, train, optimizer, epochs=20, temperature=2.0, alpha=alpha)
    return student


def a_teacher_that_guesses() -> Trap:
    """A teacher in training mode gives noisy targets."""
    train, test, teacher = _task()
    served = predict(teacher, test).argmax(1)
    agreement = {}
    for always_on in (True, False):
        teacher.always_on = always_on
        chosen = predict(_student_of(teacher, train, alpha=1.0), test).argmax(1)
        agreement[always_on] = (chosen == served).double().mean().item()
    return Trap(
        "A teacher left in training mode",
        wrong=("student agrees with the served teacher, dropout on", agreement[True]),
        right=("student agrees with the served teacher, teacher.eval()", agreement[False]),
        why="With dropout on, the teacher answers each example differently every time, and never "
        "as it would when served. The student learns an average of its guesses.",
    )


def classes_in_another_order() -> Trap:
    """The teacher sorted its classes otherwise; the shapes agree."""
    train, test, teacher = _task()
    labels = torch.cat([batch[1] for batch in test])
    order = torch.arange(9, -1, -1)

    class Reordered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = teacher(x)
            return logits[:, order]

    teacher.eval()
    accuracy = []
    for teaching in (Reordered().eval(), teacher):
        chosen = predict(_student_of(teaching, train, alpha=0.9), test).argmax(1)
        accuracy.append((chosen == labels).double().mean().item())
    return Trap(
        "Classes in another order",
        wrong=("student's accuracy, teacher's classes sorted the other way", accuracy[0]),
        right=("student's accuracy, one order for both", accuracy[1]),
        why="Shapes cannot tell. The loss falls, for the student does learn what it is taught: a "
        "permutation. Compare id2label of both models before the first step.",
    )


TRAPS = (
    the_mean_over_everything,
    the_vanishing_teacher,
    a_teacher_that_guesses,
    classes_in_another_order,
)

if __name__ == "__main__":
    show(TRAPS)
