"""Traps of the loss: a wrong factor, a missing one, a temperature on one side."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.traps import Trap
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


def a_temperature_on_one_side() -> Trap:
    """Only the student is softened: it learns T times the teacher's logits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 20, generator=generator)
    teacher = x @ torch.randn(20, 10, generator=generator) / 4
    temperature = 4.0

    def confidence(softened: bool) -> tuple[float, float]:
        torch.manual_seed(0)
        student = nn.Linear(20, 10)
        optimizer = torch.optim.Adam(student.parameters(), 0.1)
        divisor = temperature if softened else 1.0
        for _ in range(100):
            log_q = F.log_softmax(student(x) / temperature, -1)
            log_p = F.log_softmax(teacher / divisor, -1)
            loss = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        answers = student(x).detach()
        same = (answers.argmax(-1) == teacher.argmax(-1)).double().mean()
        return torch.softmax(answers, -1).amax(-1).mean().item(), same.item()

    (sharp, agrees), (right, agrees_too) = confidence(False), confidence(True)
    own = torch.softmax(teacher, -1).amax(-1).mean().item()
    return Trap(
        "A temperature on one side only (T = 4)",
        wrong=("student's mean confidence, only its own logits softened", sharp),
        right=("student's mean confidence, both softened", right),
        why=f"The teacher's is {own:.3f}. The loss is least where softmax(s / T) = softmax(t), at "
        f"s = T t: logits four times too large. Accuracy shows nothing, since the order of classes "
        f"stays (agreement {agrees:.3f} and {agrees_too:.3f}); every threshold on the student's "
        "confidence is wrong.",
    )
