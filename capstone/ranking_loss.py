"""What the models minimise: next item and reactions, from the labels and from a teacher.

Every loss is a sum over the real positions of this rank, divided by ``batch.tokens``, the global
number of them per rank; so the mean over ranks is the mean over all tokens, however padding falls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capstone.data import LIKE_FROM
from common.exercises.marker import exercise
from labs.lab5_distillation.distillation_loss import binary_distillation_loss, distillation_loss
from labs.lab5_distillation.objectives import FrozenTeacher

if TYPE_CHECKING:
    from capstone.models import Ranker
    from capstone.training import Batch

LOVE_FROM = 5
DISLIKE_TO = 2


def reaction_labels(ratings: Tensor) -> Tensor:
    """Labels of :data:`capstone.value.REACTIONS`: int [...] ratings 1 to 5 -> float [..., 3].

    Columns are like (rating >= 4), love (5) and dislike (<= 2); a padding's rating of 0 has none
    that means anything.
    """
    columns = [ratings >= LIKE_FROM, ratings >= LOVE_FROM, ratings <= DISLIKE_TO]
    return torch.stack(columns, dim=-1).float()


def retrieval_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Full-softmax cross-entropy of the next item, per token."""
    logits = model(batch.history)
    total = F.cross_entropy(
        logits.flatten(0, 1), batch.nexts.flatten(), ignore_index=0, reduction="sum"
    )
    return total / batch.tokens


@exercise(
    "7.5",
    points=5,
    title="One loss for what comes next and for the reactions to it",
    hint="Which positions have no next item, and what would their rating of 0 be a label of? "
    "Every head adds its own sum, so that a head's gradient does not depend on how many there "
    "are. What must two ranks with different padding divide by?",
)
def multi_task_loss(
    engage: Tensor, reactions: Tensor, nexts: Tensor, labels: Tensor, *, tokens: float
) -> Tensor:
    """Next item and the reactions to it, summed over heads and real positions, per token.

    ``sum over (b, t) with nexts > 0 of [CE(engage_bt, nexts_bt) + sum_r BCE(z_btr, y_btr)]``
    divided by ``tokens``. The reactions are conditional on watching: only the item that did come
    next has labels for them, so the others are no negatives.

    Parameters
    ----------
    engage : [B, L, n_items + 1]
        Logits of the next item.
    reactions : [B, L, R]
        Logits of each reaction to the item that did come next.
    nexts : [B, L]
        The next item; 0 where there is none (padding).
    labels : [B, L, R]
        0 or 1 for each reaction (:func:`reaction_labels`); without meaning at padding.
    tokens
        What the sum is divided by: real positions of the *global* batch over the number of ranks.

    Returns
    -------
    Tensor
        Scalar.

    References
    ----------
    Caruana (1997), Machine Learning 28: tasks that share a representation. Next item by full
    softmax: Klenitskiy & Vasilev (RecSys 2023), arXiv 2309.07602.
    """
    real = nexts > 0
    total = F.cross_entropy(engage[real], nexts[real], reduction="sum")
    total = total + F.binary_cross_entropy_with_logits(
        reactions[real], labels[real], reduction="sum"
    )
    return total / tokens


def ranker_loss(model: nn.Module, batch: Batch) -> Tensor:
    """All heads from the labels, per token."""
    engage, reactions = model(batch.history, batch.ratings, batch.nexts)
    labels = reaction_labels(batch.next_ratings).to(reactions.dtype)
    return multi_task_loss(engage, reactions, batch.nexts, labels, tokens=batch.tokens)


def distilled_loss(
    teacher: Ranker, temperature: float, alpha: float
) -> Callable[[nn.Module, Batch], Tensor]:
    """Every head learns from the frozen teacher's (lab 5) and from the labels, per token."""
    frozen = FrozenTeacher(teacher, lambda model, b: model(b.history, b.ratings, b.nexts))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        real = batch.nexts > 0
        engage, reactions = model(batch.history, batch.ratings, batch.nexts)
        teacher_engage, teacher_reactions = frozen(batch)
        mean = distillation_loss(
            engage[real], teacher_engage[real], batch.nexts[real],
            temperature=temperature, alpha=alpha,
        )  # fmt: skip
        mean = mean + reactions.shape[-1] * binary_distillation_loss(
            reactions[real], teacher_reactions[real], reaction_labels(batch.next_ratings[real]),
            temperature=temperature, alpha=alpha,
        )  # fmt: skip
        return mean * (real.sum() / batch.tokens)

    return loss
