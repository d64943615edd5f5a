"""Learning from the inside of a teacher: any comparison of features, beside its logits.

The teacher runs in every step. Its logits could be kept, N x classes numbers, but its features are
tokens x width times as many a layer (`cache_bytes`), and dropout or augmentation of the student's
side needs none of that. Where a step is dear, distil the features first and the logits, cached,
afterwards (`feature_then_logits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError, require
from labs.lab5_distillation import recipe as recipes
from labs.lab5_distillation.distillation_loss import distillation_loss
from labs.lab5_distillation.encoders import TextClassifier, layers_of, layers_path, read
from labs.lab5_distillation.hooks import Taps
from labs.lab5_distillation.objectives import Objective
from labs.lab5_distillation.recipe import Recipe
from labs.lab5_distillation.tokens import TokenSet


class FeatureLoss(nn.Module):
    """Base: compares what two models computed inside; its parameters learn with the student.

    Attributes
    ----------
    student_paths, teacher_paths
        Modules that `forward` wants tapped.
    """

    student_paths: tuple[str, ...]
    teacher_paths: tuple[str, ...]

    def forward(self, student: Taps, teacher: Taps, mask: Tensor) -> Tensor:
        """Scalar loss of a batch; ``mask`` [B, L] is 1 at its real tokens."""
        raise NotImplementedError


class FeatureDistillation(Objective):
    """The weighted sum of comparisons of features, and of the `distillation_loss` of the logits.

    Parameters
    ----------
    losses
        The comparisons, one at least. Their parameters are the objective's.
    weights
        One for each comparison, > 0. None: 1 for each. The losses have different units: look at
        their sizes in the first step (`parts`) before you choose.
    logits
        Weight of the logits' loss. 0 leaves it out: labels are then never read, and the head has
        no gradient.
    temperature, alpha
        Of the `distillation_loss`.

    Raises
    ------
    InputError
        No comparison, weights that do not fit, a path that one of the models lacks.
    """

    def __init__(
        self,
        student: TextClassifier,
        teacher: TextClassifier,
        losses: Sequence[FeatureLoss],
        *,
        weights: Sequence[float] | None = None,
        logits: float = 1.0,
        temperature: float = 4.0,
        alpha: float = 1.0,
    ) -> None:
        super().__init__(student)
        weights = [1.0] * len(losses) if weights is None else list(weights)
        if not losses or len(weights) != len(losses):
            raise InputError(f"{len(losses)} feature losses and {len(weights)} weights")
        for weight in weights:
            require(weight > 0, "weight", weight, "must be > 0", "leave that loss out")
        require(logits >= 0, "logits", logits, "must be >= 0", "0 leaves the logits out")
        self.losses, self.weights, self.logits = nn.ModuleList(losses), weights, logits
        self.teacher = recipes.frozen(teacher)
        self.temperature, self.alpha = temperature, alpha
        self._paths = tuple(
            tuple(dict.fromkeys(path for each in losses for path in getattr(each, side)))
            for side in ("student_paths", "teacher_paths")
        )
        self._taps(), self._taps(self.teacher.model)

    def _taps(self, teacher: nn.Module | None = None) -> Taps:
        """Taps of the student, or of the teacher; new in every step, so no batch outlives it."""
        model: nn.Module = self.student if teacher is None else teacher
        return Taps(model, self._paths[teacher is not None])

    def parts(self, batch: Any) -> dict[str, Tensor]:
        """Each loss of a batch before its weight: ``"logits"``, then each comparison by its class.

        A second comparison of a class is numbered.
        """
        with self._taps() as ours:
            student_logits = read(self.student, batch)
        with self._taps(self.teacher.model) as theirs:
            teacher_logits = self.teacher(batch)
        found: dict[str, Tensor] = {}
        if self.logits:
            found["logits"] = distillation_loss(
                student_logits,
                teacher_logits,
                batch.labels,
                temperature=self.temperature,
                alpha=self.alpha,
            )
        for place, loss in enumerate(self.losses):
            name = type(loss).__name__
            found[f"{name} {place}" if name in found else name] = loss(
                ours, theirs, batch.attention_mask
            )
        return found

    def forward(self, batch: Any) -> Tensor:
        parts = self.parts(batch)
        weights = ([self.logits] if self.logits else []) + self.weights
        weighted = [weight * part for weight, part in zip(weights, parts.values(), strict=True)]
        return torch.stack(weighted).sum()


def layer_path(model: TextClassifier, layer: int) -> str:
    """Path of an encoder's layer; its output is the hidden state after it.

    Raises
    ------
    InputError
        The encoder has no such layer.
    """
    has = len(layers_of(model))
    require(0 <= layer < has, "layer", layer, f"must be from 0 to {has - 1}")
    return f"{layers_path(model)}.{layer}"


def cache_bytes(n_texts: int, tokens: int, width: int, layers: int = 1, *, size: int = 4) -> int:
    """Bytes that cached features take: texts x tokens x width x layers x ``size`` of a number.

    15,000 texts of 32 tokens at width 384 are 0.74 GB a layer in float32; logits of 150 classes
    for the same texts 9 MB.
    """
    return n_texts * tokens * width * layers * size


@dataclass(frozen=True)
class TwoPhases:
    """Mean losses of the epochs of each phase."""

    features: list[float]
    logits: list[float]


def feature_then_logits(
    student: TextClassifier,
    teacher: TextClassifier,
    losses: Sequence[FeatureLoss],
    texts: TokenSet,
    features: Recipe,
    logits: Recipe,
    *,
    weights: Sequence[float] | None = None,
    temperature: float = 4.0,
    alpha: float = 1.0,
) -> TwoPhases:
    """Train ``student`` in place: on features alone, then on the teacher's cached logits.

    TinyBERT's order (Jiao et al. 2019, section 3.2). The first phase reads no label and leaves the
    head alone; what the comparisons learned with it, such as projections, goes with it. The
    teacher runs in each epoch of the first phase and once for the second.

    Parameters
    ----------
    features, logits
        Recipe of each phase.
    """
    first = FeatureDistillation(student, teacher, losses, weights=weights, logits=0.0)
    features_losses = recipes.train(first, texts, features)
    second = recipes.distillation(
        student, recipes.cached(teacher, texts), temperature=temperature, alpha=alpha
    )
    return TwoPhases(features_losses, recipes.train(second, texts, logits))
