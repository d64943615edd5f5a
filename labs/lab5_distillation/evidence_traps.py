"""Traps of evidence: what a student keeps by itself, and rounding that teaches nothing."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.traps import Trap
from labs.lab5_distillation.distillation_loss import distillation_loss
from labs.lab5_distillation.evaluation import correct
from labs.lab5_distillation.retention import paired_gain, retention

EVALUATED = 1000  # test examples of the two traps of the evaluation


@cache
def _ten_classes() -> tuple[Tensor, Tensor, Tensor, NDArray[np.int64]]:
    """Training inputs and labels, test inputs and labels of ten classes (synthetic)."""
    generator = torch.Generator().manual_seed(0)
    inner = torch.randn(20, 30, generator=generator)
    outer = torch.randn(30, 10, generator=generator)

    def examples(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 20, generator=generator)
        logits = torch.relu(x @ inner) @ outer
        noise = 4 * torch.randn(n, 10, generator=generator)
        return x, (logits + noise).argmax(1)

    x, y = examples(2000)
    test, labels = examples(EVALUATED)
    return x, y, test, labels.numpy()


def _answers(
    width: int, seed: int, teacher: Tensor | None = None, epochs: int = 20
) -> tuple[Tensor, Tensor]:
    """Logits on training and test inputs of a small network, trained alone or by a teacher's."""
    x, y, test, _ = _ten_classes()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 10))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(256):
                logits = model(x[rows])
                if teacher is None:
                    loss = F.cross_entropy(logits, y[rows])
                else:
                    loss = distillation_loss(
                        logits, teacher[rows], y[rows], temperature=2.0, alpha=0.9
                    )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    with torch.no_grad():
        return model(x), model(test)


def kept_without_its_teacher() -> Trap:
    """A high retention may be what the student reaches alone."""
    *_, labels = _ten_classes()
    # The mean of three networks is the better teacher, as in Hinton et al., section 3.
    members = [_answers(48, 100 + seed, epochs=10) for seed in range(3)]
    taught, judged = (torch.stack(logits).mean(0) for logits in zip(*members))
    right = correct(judged, labels)[0]
    rows = {
        name: np.stack([correct(_answers(12, seed, teacher)[1], labels)[0] for seed in range(3)])
        for name, teacher in (("distilled", taught), ("alone", None))
    }
    kept = {name: retention(row, right, n_boot=200) for name, row in rows.items()}
    gain = paired_gain(rows["distilled"], rows["alone"], n_boot=200)
    low, high = gain.ci95
    return Trap(
        "Retention without the fine-tuned student",
        wrong=("retention of the distilled student", round(kept["distilled"].value, 3)),
        right=(
            "the same student alone, and the gain in accuracy",
            f"{kept['alone'].value:.3f}, {gain.value:+.3f} ({low:+.3f} to {high:+.3f})",
        ),
        why="Most of what is kept needs no teacher. What distillation did is the difference to the "
        "same student fine-tuned, by the same recipe and seeds, and its interval says whether it "
        "did anything.",
    )


def rounding_without_a_gradient() -> Trap:
    """The loss falls, the biases move, and no weight does: rounding has gradient zero."""
    import torch
    import torch.nn.functional as F

    from labs.lab5_distillation.fake_quantization import (
        fake_quantize,
        quantization_parameters,
        quantize,
        signed,
    )

    codes = signed(2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 20, generator=generator)
    teacher = x @ torch.randn(20, 10, generator=generator) + torch.randn(10, generator=generator)

    def agreement(straight_through: bool) -> float:
        torch.manual_seed(1)
        student = torch.nn.Linear(20, 10)

        def forward() -> torch.Tensor:
            with torch.no_grad():
                scale, zero = quantization_parameters(student.weight, codes, axis=0)
            rounding = fake_quantize if straight_through else _rounded
            return F.linear(x, rounding(student.weight, scale, zero, codes), student.bias)

        def _rounded(w, s, z, c):  # type: ignore[no-untyped-def]
            return s * (quantize(w, s, z, c) - z)

        for _ in range(300):
            loss = F.kl_div(
                F.log_softmax(forward(), 1),
                F.log_softmax(teacher, 1),
                reduction="batchmean",
                log_target=True,
            )
            gradients = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(student.parameters(), gradients, strict=True):
                    if gradient is not None:
                        parameter.sub_(0.1 * gradient)
        return (forward().argmax(1) == teacher.argmax(1)).double().mean().item()

    return Trap(
        "Rounding in the forward pass, without a straight-through estimator",
        wrong=("agreement with the teacher at 2 bits, gradient of round()", agreement(False)),
        right=("agreement with the teacher at 2 bits, straight-through", agreement(True)),
        why="round() is flat wherever it has a gradient, so every weight behind it gets zero. The "
        "biases learn, the loss falls and nothing complains. Look whether a weight has moved.",
    )
