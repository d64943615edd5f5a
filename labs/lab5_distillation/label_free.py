"""Distillation on texts without labels: the soft part needs none.

Labels are scarce and texts are not. A teacher that learned from the few answers the many, and the
student learns from the answers. What a text is worth depends on whether the teacher knows its kind:
`confidence_report` compares pools of texts before any is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab5_distillation.distillation_loss import check, precise
from labs.lab5_distillation.encoders import read
from labs.lab5_distillation.objectives import (
    Forward,
    Labels,
    Objective,
    Teacher,
    first_forward,
    second_labels,
)
from labs.lab5_distillation.recipe import batch_labels
from labs.lab5_distillation.tokens import TokenSet

Weigh = Callable[[Tensor], Tensor]
"""``weigh(teacher logits [B, C])`` -> weight of each text's soft target [B], >= 0."""


@exercise(
    "5.6",
    points=10,
    title="Soft targets for all texts, labels for some",
    hint="Each part is a mean over those that count in it: divide by what, and what if none do? "
    "An index of -1 is a valid one in torch.",
)
def semi_supervised_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    weights: Tensor | None = None,
) -> Tensor:
    """`distillation_loss` for batches in which some texts have no label.

    ``alpha T**2 sum_i w_i KL_i / sum_i w_i + (1 - alpha) mean of CE over the labelled texts``. A
    part with nothing in it, no weight above 0 or no label, is 0 and has a gradient of 0.

    Parameters
    ----------
    student_logits, teacher_logits
        Float tensors [B, C]; half precision is computed in float32.
    labels
        Integer tensor [B]; -1 where the label is not known. Those texts count in the soft part
        alone.
    temperature, alpha
        As in :func:`distillation_loss.distillation_loss`, which this is when every label is known
        and the weights are equal.
    weights
        Float tensor [B], >= 0, of the soft targets; labels are not weighed. None: 1 each.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    InputError
        As in :func:`distillation_loss.distillation_loss`, or weights of another shape or below 0.
    """
    check(student_logits, teacher_logits, temperature, alpha)
    _check_weights(weights, labels)
    # BEGIN SOLUTION
    student, teacher = precise(student_logits), precise(teacher_logits)
    each = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    weights = torch.ones_like(each) if weights is None else weights
    total = weights.sum()
    soft = (weights * each).sum() / torch.where(total > 0, total, 1.0)
    known = labels >= 0
    errors = F.cross_entropy(student, labels, ignore_index=-1, reduction="sum")
    hard = errors / known.sum().clamp(min=1)
    return alpha * temperature**2 * soft + (1 - alpha) * hard
    # END SOLUTION


def _check_weights(weights: Tensor | None, labels: Tensor) -> None:
    if weights is None:
        return
    if weights.shape != labels.shape:
        raise InputError(f"weights {tuple(weights.shape)} must be {tuple(labels.shape)}")
    least = float(weights.min())
    require(least >= 0, "least weight", least, "must be >= 0")


def max_probability(logits: Tensor) -> Tensor:
    """Probability of the first choice [...] of logits [..., C]: the teacher's confidence."""
    return torch.softmax(precise(logits), dim=-1).amax(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats [...] of logits [..., C]: 0 is certain, log C knows nothing."""
    log_p = torch.log_softmax(precise(logits), dim=-1)
    return -(log_p.exp() * log_p).sum(-1)


def above(threshold: float) -> Weigh:
    """Weight 1 where the teacher's confidence reaches ``threshold``, else 0.

    Notes
    -----
    Sohn et al. (2020), FixMatch, arXiv 2001.07685, equation 4, who divide by the batch size.
    """
    require(0 <= threshold <= 1, "threshold", threshold, "must be from 0 to 1", "try 0.8")
    return lambda logits: (max_probability(logits) >= threshold).float()


class SemiSupervised(Objective):
    """`semi_supervised_loss` of a student and a teacher; with ``alpha=1`` it is label-free.

    Parameters
    ----------
    weigh
        Weights of the soft targets by the teacher's logits: `above`, `max_probability`, or a
        function of the caller's. None: all the same.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        *,
        temperature: float,
        alpha: float = 1.0,
        weigh: Weigh | None = None,
        forward: Forward = first_forward,
        labels: Labels = second_labels,
    ) -> None:
        super().__init__(student)
        self.teacher, self.weigh = teacher, weigh
        self.temperature, self.alpha = temperature, alpha
        self.read, self.labels = forward, labels

    def forward(self, batch: Any) -> Tensor:
        answers = self.teacher(batch)
        return semi_supervised_loss(
            self.read(self.student, batch),
            answers,
            self.labels(batch),
            temperature=self.temperature,
            alpha=self.alpha,
            weights=None if self.weigh is None else self.weigh(answers),
        )


def semi_supervised(
    student: nn.Module,
    teacher: Teacher,
    *,
    temperature: float,
    alpha: float = 1.0,
    weigh: Weigh | None = None,
) -> SemiSupervised:
    """`SemiSupervised` for text classifiers."""
    return SemiSupervised(
        student, teacher, temperature=temperature, alpha=alpha, weigh=weigh,
        forward=read, labels=batch_labels,
    )  # fmt: skip


def subset(texts: TokenSet, rows: NDArray[np.int64]) -> TokenSet:
    """The given rows of a set of texts, in that order."""
    return TokenSet([texts.ids[row] for row in rows], texts.labels[rows], texts.device)


def join(*pools: TokenSet) -> TokenSet:
    """Sets of texts one after another, each with its labels; their logits join in that order."""
    if not pools:
        raise InputError("no texts to join")
    ids = [each for pool in pools for each in pool.ids]
    return TokenSet(ids, np.concatenate([pool.labels for pool in pools]), pools[0].device)


def few_per_class(labels: NDArray[np.int64], n: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Rows of ``n`` texts of each class, drawn without replacement, in ascending order.

    Raises
    ------
    InputError
        ``n`` < 1, or a class with fewer texts.
    """
    require(n >= 1, "texts a class", n, "must be at least 1")
    rng = np.random.default_rng(seed)
    rows = []
    for label in np.unique(labels[labels >= 0]):
        found = np.flatnonzero(labels == label)
        require(len(found) >= n, "texts a class", n, f"class {label} has only {len(found)}")
        rows.append(rng.choice(found, n, replace=False))
    return np.sort(np.concatenate(rows)).astype(np.int64)


def pseudo_labelled(texts: TokenSet, teacher_logits: Tensor, threshold: float = 0.0) -> TokenSet:
    """Texts with the teacher's first choice as label, those below the threshold left out.

    What hard targets throw away is the comparison with soft ones. A label that a text has stays.

    Notes
    -----
    Lee (2013), Pseudo-Label.

    Raises
    ------
    InputError
        Logits of another number of texts, or no text is left.
    """
    require(0 <= threshold <= 1, "threshold", threshold, "must be from 0 to 1", "try 0.8")
    if len(teacher_logits) != len(texts):
        raise InputError(f"{len(teacher_logits)} rows of teacher logits for {len(texts)} texts")
    known = texts.labels >= 0
    confidence = max_probability(teacher_logits).cpu().numpy()
    rows = np.flatnonzero(known | (confidence >= threshold))
    if not len(rows):
        raise InputError(
            f"threshold = {threshold} leaves none of {len(texts)} texts; the teacher's largest "
            f"confidence is {confidence.max():.3f}"
        )
    chosen = teacher_logits.argmax(-1).cpu().numpy().astype(np.int64)
    labels = np.where(known, texts.labels, chosen)
    return subset(TokenSet(texts.ids, labels, texts.device), rows)


@dataclass(frozen=True)
class Confidence:
    """How sure a teacher is of a pool of texts.

    Attributes
    ----------
    max_probability, entropy
        Means over the texts; the entropy in nats.
    confident
        Share of texts whose largest probability reaches the threshold.
    told_apart
        Probability that a text of the first pool has a larger confidence than one of this pool
        (AUROC, ties count half). 0.5, which the first pool has: confidence tells nothing.
    """

    pool: str
    texts: int
    max_probability: float
    entropy: float
    confident: float
    told_apart: float


def confidence_report(pools: Mapping[str, Tensor], *, threshold: float = 0.8) -> list[Confidence]:
    """The teacher's confidence in pools of texts; the first is the one that it was made for.

    Parameters
    ----------
    pools
        Name to the teacher's logits [N, C].

    Notes
    -----
    The largest probability as a detector of foreign texts: Hendrycks and Gimpel (2017), arXiv
    1610.02136.
    """
    from scipy.stats import rankdata

    if not pools:
        raise InputError("no pool of texts to report on")
    found = {name: max_probability(logits).cpu().numpy() for name, logits in pools.items()}
    first = next(iter(found.values()))
    rows = []
    for name, confidence in found.items():
        ranks = rankdata(np.concatenate([first, confidence]))[: len(first)]
        above_pairs = ranks.sum() - len(first) * (len(first) + 1) / 2
        rows.append(
            Confidence(
                pool=name,
                texts=len(confidence),
                max_probability=float(confidence.mean()),
                entropy=float(entropy(pools[name]).mean()),
                confident=float((confidence >= threshold).mean()),
                told_apart=float(above_pairs / (len(first) * len(confidence))),
            )
        )
    return rows
