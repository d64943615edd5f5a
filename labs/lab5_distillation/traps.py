"""Silent failures of distillation: it trains, and the student learns less than it could.

Run them with ``python -m labs.lab5_distillation.traps [name]``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.traps import Trap, show
from labs.lab5_distillation.distil import distil, predict, train_alone
from labs.lab5_distillation.distillation_loss import distillation_loss

CLASSES = 77


def _logits() -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher logits [32, 77] and labels (synthetic)."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(32, CLASSES, generator=generator) for _ in range(2))
    return student, teacher, teacher.argmax(1)


def the_mean_over_everything() -> Trap:
    """kl_div's default reduction divides by the classes too."""
    student, teacher, _ = _logits()
    q, p = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    means = {
        reduction: F.kl_div(q, p, reduction=reduction, log_target=True).item()
        for reduction in ("mean", "batchmean")
    }
    return Trap(
        f"kl_div(reduction='mean') over {CLASSES} classes",
        wrong=("KL divergence, reduction='mean' (the default)", means["mean"]),
        right=("KL divergence, reduction='batchmean'", means["batchmean"]),
        why=f"'mean' divides by the number of elements, so the soft loss is {CLASSES} times too "
        "small, and alpha no longer means what it says.",
    )


def the_vanishing_teacher() -> Trap:
    """Without T squared the soft gradient falls as 1 / T^2."""
    student, teacher, labels = _logits()

    def size(temperature: float, factor: float) -> float:
        """Norm of the soft gradient over that of the hard one."""
        norms = []
        for alpha in (1.0, 0.0):
            x = student.clone().requires_grad_(True)
            distillation_loss(x, teacher, labels, temperature=temperature, alpha=alpha).backward()  # type: ignore[no-untyped-call]
            assert x.grad is not None
            norms.append(x.grad.norm().item())
        return factor * norms[0] / norms[1]

    return Trap(
        "Leaving out the factor T squared at T = 8",
        wrong=("soft gradient / hard gradient, without T^2", size(8, 1 / 64)),
        right=("soft gradient / hard gradient, with T^2", size(8, 1.0)),
        why="Softening divides the gradient by T twice: once in the logits, once in how far the "
        "two distributions are apart. The labels then decide alone, and the run still converges.",
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


def a_teacher_that_guesses() -> Trap:
    """A teacher in training mode gives noisy targets."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20, 10, generator=generator)

    def texts(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 20, generator=generator)
        return x, (x @ truth + 2 * torch.randn(n, 10, generator=generator)).argmax(1)

    train = [texts(64) for _ in range(20)]
    test = [texts(4000)]
    teacher = _Noisy(128, 0.7, seed=1)
    train_alone(teacher, train, torch.optim.Adam(teacher.parameters(), 3e-3), epochs=20)
    wanted = predict(teacher, test).argmax(1)
    agreement = {}
    for always_on in (True, False):
        student = _Noisy(24, 0.0, seed=2)
        teacher.always_on = always_on
        torch.manual_seed(3)
        optimizer = torch.optim.Adam(student.parameters(), 1e-2)
        distil(student, teacher, train, optimizer, epochs=20, temperature=2.0, alpha=1.0)
        agreement[always_on] = (predict(student, test).argmax(1) == wanted).float().mean().item()
    return Trap(
        "A teacher left in training mode",
        wrong=("student agrees with the served teacher, dropout on", agreement[True]),
        right=("student agrees with the served teacher, teacher.eval()", agreement[False]),
        why="With dropout on, the teacher answers each text differently every time, and never as "
        "it would when served. The student learns an average of its guesses.",
    )


TRAPS = (the_mean_over_everything, the_vanishing_teacher, a_teacher_that_guesses)

if __name__ == "__main__":
    show(TRAPS)
