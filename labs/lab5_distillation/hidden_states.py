"""Hidden states of the teacher as targets of the student's, through a learned projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from common.exercises import exercise
from labs.lab5_distillation.encoders import TextClassifier
from labs.lab5_distillation.feature_distillation import (
    FeatureDistillation,
    FeatureLoss,
    layer_path,
)
from labs.lab5_distillation.hooks import Taps
from labs.lab5_distillation.layer_maps import LayerMap

TokenLoss = Callable[[Tensor, Tensor, Tensor, nn.Module], Tensor]
"""``loss(student [B, L, S], teacher [B, L, T], mask [B, L], projection S -> T)`` -> scalar."""
EMBEDDINGS = "encoder.embeddings"


def check_states(student: Tensor, teacher: Tensor, mask: Tensor) -> None:
    """Refuse states that do not belong to the same tokens.

    Raises
    ------
    InputError
        Other texts or lengths on one side, or no real token.
    """
    if not (student.shape[:-1] == teacher.shape[:-1] == mask.shape):
        raise InputError(
            f"states {tuple(student.shape)} and {tuple(teacher.shape)} and mask "
            f"{tuple(mask.shape)} must agree in texts and tokens"
        )
    if not mask.any():
        raise InputError("mask has no real token: the mean over none is not defined")


def projection(student_width: int, teacher_width: int) -> nn.Linear:
    """A linear map S -> T without bias: the identity where the widths are equal, else orthogonal.

    With the identity the first step compares the states as they are; a random square matrix would
    first have to be unlearned. It is a parameter of the objective, not of the student.
    """
    linear = nn.Linear(student_width, teacher_width, bias=False)
    if student_width == teacher_width:
        nn.init.eye_(linear.weight)
    else:
        nn.init.orthogonal_(linear.weight)
    return linear


@exercise(
    "5.8",
    points=10,
    title="Hidden-state loss with a projection and a mask",
    hint="Which axis has real and padded entries, and how many numbers are compared? The teacher "
    "is the target; everything on the student's side, projection included, must learn.",
)
def hidden_state_loss(
    student: Tensor, teacher: Tensor, mask: Tensor, projection: nn.Module
) -> Tensor:
    """Mean squared error between projected student states and the teacher's, over real tokens.

    ``sum_t mask_t ||P(s_t) - h_t||^2 / (T * sum_t mask_t)`` over all tokens t of the batch: each
    real token weighs the same, however long its text or the batch is padded.

    Parameters
    ----------
    student
        Float [B, L, S].
    teacher
        Float [B, L, T]; a constant, no gradient goes to it.
    mask
        [B, L], 1 or True at real tokens.
    projection
        Module from S to T that learns with the student.

    Returns
    -------
    Tensor
        Scalar float32, whatever the type of the states.

    Raises
    ------
    InputError
        See `check_states`.

    Notes
    -----
    Romero et al. (2015), FitNets, arXiv 1412.6550, equation 3; Jiao et al. (2019), TinyBERT,
    arXiv 1909.10351, equation 8.
    """
    check_states(student, teacher, mask)
    projected = projection(student).float()
    squares = (projected - teacher.detach().float()).square().mean(-1)
    real = mask.to(squares.dtype)
    return (squares * real).sum() / real.sum()


def normalised_loss(
    student: Tensor, teacher: Tensor, mask: Tensor, projection: nn.Module
) -> Tensor:
    """`hidden_state_loss` of states brought to mean 0 and variance 1 over the width of each token.

    What is compared is the direction of a token's state, not its size: useful between models whose
    states differ in scale, or in a few very large coordinates.
    """

    def scaled(states: Tensor) -> Tensor:
        return F.layer_norm(states.float(), states.shape[-1:])

    return hidden_state_loss(scaled(projection(student)), scaled(teacher), mask, nn.Identity())


def cosine_loss(student: Tensor, teacher: Tensor, mask: Tensor, projection: nn.Module) -> Tensor:
    """Mean over real tokens of ``1 - cos(P(s_t), h_t)``, from 0 to 2.

    DistilBERT's loss of the last hidden states (Sanh et al. 2019, arXiv 1910.01108, section 3).
    """
    check_states(student, teacher, mask)
    projected = projection(student).float()
    distance = 1 - F.cosine_similarity(projected, teacher.detach().float(), dim=-1)
    real = mask.to(distance.dtype)
    return (distance * real).sum() / real.sum()


class HiddenStates(FeatureLoss):
    """Mean over the pairs of a layer map of a `TokenLoss`, each pair with its own projection.

    Parameters
    ----------
    embeddings
        Compare the outputs of the embedding layers as well.
    loss
        `hidden_state_loss`, `normalised_loss` or `cosine_loss`.
    """

    def __init__(
        self,
        student: TextClassifier,
        teacher: TextClassifier,
        layers: LayerMap,
        *,
        embeddings: bool = False,
        loss: TokenLoss = hidden_state_loss,
    ) -> None:
        super().__init__()
        pairs = [(layer_path(student, s), layer_path(teacher, t)) for s, t in layers.pairs]
        if embeddings:
            pairs.insert(0, (EMBEDDINGS, EMBEDDINGS))
        self.student_paths = tuple(pair[0] for pair in pairs)
        self.teacher_paths = tuple(pair[1] for pair in pairs)
        widths = [each.encoder.config.hidden_size for each in (student, teacher)]
        device = student.head.weight.device
        self.projections = nn.ModuleList(projection(*widths).to(device) for _ in pairs)
        self.loss = loss

    def forward(self, student: Taps, teacher: Taps, mask: Tensor) -> Tensor:
        found = [
            self.loss(student[ours], teacher[theirs], mask, projection)
            for ours, theirs, projection in zip(
                self.student_paths, self.teacher_paths, self.projections, strict=True
            )
        ]
        return torch.stack(found).mean()


class HiddenStateDistillation(FeatureDistillation):
    """Hidden states through learned projections, beside the logits.

    Parameters
    ----------
    layers
        Which student layer learns from which of the teacher (`layer_maps`).
    weight
        Of the hidden states beside ``logits``, which has 1.
    embeddings, loss
        Of `HiddenStates`.
    options
        Of `FeatureDistillation`: ``logits``, ``temperature``, ``alpha``.
    """

    def __init__(
        self,
        student: TextClassifier,
        teacher: TextClassifier,
        layers: LayerMap,
        *,
        weight: float = 1.0,
        embeddings: bool = False,
        loss: TokenLoss = hidden_state_loss,
        **options: Any,
    ) -> None:
        compared = HiddenStates(student, teacher, layers, embeddings=embeddings, loss=loss)
        super().__init__(student, teacher, [compared], weights=[weight], **options)
