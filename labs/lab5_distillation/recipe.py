"""How the lab trains a text classifier: rates, schedule, epochs. Every method uses the same one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import require
from labs.lab5_distillation.distiller import OnStep, fit
from labs.lab5_distillation.encoders import TextClassifier, read
from labs.lab5_distillation.objectives import (
    CachedTeacher,
    Distillation,
    FrozenTeacher,
    Objective,
    Supervised,
    Teacher,
)
from labs.lab5_distillation.tokens import Batch, Batches, TokenSet


@dataclass(frozen=True)
class Recipe:
    """AdamW, a linear warm-up and a linear way down; heads at a rate of their own.

    Attributes
    ----------
    head_rate
        Peak rate of what starts from nothing: heads and projections.
    warmup
        Share of the steps that the rate rises.
    bf16
        Matrix products of the forward pass in bfloat16.
    """

    epochs: int = 4
    rate: float = 3e-4
    head_rate: float = 3e-3
    batch_size: int = 32
    weight_decay: float = 0.01
    warmup: float = 0.1
    max_norm: float = 1.0
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", self.epochs, "must be at least 1")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "must be from 0 to below 1")
        for name in ("rate", "head_rate", "batch_size"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be > 0")

    def but(self, **changes: Any) -> Recipe:
        """The same recipe with some values changed."""
        return replace(self, **changes)


def train(
    objective: Objective,
    texts: TokenSet,
    recipe: Recipe,
    *,
    loader: Any = None,
    on_step: OnStep | None = None,
    checkpoint: Path | None = None,
    every: int = 100,
    bad_batches: Path | None = None,
) -> list[float]:
    """Minimise an objective over texts by the recipe; the mean loss of each epoch.

    ``loader`` replaces the batches of ``texts``, for methods that change texts on the way.
    The encoder's pretrained parameters learn at ``rate``, all others of the objective (the
    student's head, projections, heads of a method) at ``head_rate``. ``checkpoint``, ``every``
    and ``bad_batches`` are those of `distiller.fit`: a stopped run goes on from the file, and the
    batch of a step that is not finite is saved.
    """
    torch.manual_seed(recipe.seed)
    loader = Batches(texts, recipe.batch_size, recipe.seed) if loader is None else loader
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            groups[name.startswith("student.encoder.")].append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": groups[True], "lr": recipe.rate},
            {"params": groups[False], "lr": recipe.head_rate},
        ],
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    total = recipe.epochs * len(loader)
    rising = max(1.0, recipe.warmup * total)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rising, max(0.0, (total - step) / total))
    )
    return fit(
        objective,
        loader,
        optimizer,
        epochs=recipe.epochs,
        scheduler=schedule,
        max_norm=recipe.max_norm,
        autocast=torch.bfloat16 if recipe.bf16 else None,
        on_step=on_step,
        checkpoint=checkpoint,
        every=every,
        bad_batches=bad_batches,
    )


def batch_labels(batch: Batch) -> Tensor:
    """Labels [B] of a batch of tokens."""
    return batch.labels


def supervised(model: TextClassifier, label_smoothing: float = 0.0) -> Supervised:
    """`Supervised` for text classifiers."""
    return Supervised(model, label_smoothing=label_smoothing, forward=read, labels=batch_labels)


def distillation(
    student: TextClassifier, teacher: Teacher, *, temperature: float, alpha: float
) -> Distillation:
    """`Distillation` for text classifiers."""
    return Distillation(
        student, teacher, temperature=temperature, alpha=alpha, forward=read, labels=batch_labels
    )


def frozen(teacher: TextClassifier) -> FrozenTeacher:
    """A text classifier as a teacher."""
    return FrozenTeacher(teacher, read)


def cached(teacher: TextClassifier, texts: TokenSet) -> CachedTeacher:
    """The teacher's logits for the texts, computed once."""
    return CachedTeacher(logits(teacher, texts).to(texts.device))


@torch.no_grad()
def logits(
    model: TextClassifier,
    texts: TokenSet,
    *,
    batch_size: int = 128,
    forward: Callable[[Any, Batch], Tensor] = read,
) -> Tensor:
    """Logits [N, C] float32 on the CPU, in the order of the texts, in evaluation mode."""
    was = model.training
    model.eval()
    found: Tensor | None = None
    for batch in Batches(texts, batch_size):
        part = forward(model, batch).float().cpu()
        if found is None:
            found = part.new_empty(len(texts), part.shape[1])
        found[batch.rows.cpu()] = part
    model.train(was)
    assert found is not None
    return found


def accuracy(found: Tensor, texts: TokenSet) -> float:
    """Share of texts whose largest logit is the label's."""
    return float((found.argmax(1).numpy() == np.asarray(texts.labels)).mean())
