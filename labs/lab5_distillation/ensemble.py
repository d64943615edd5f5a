"""Several teachers as one: the mean of their probabilities, as logits that any loss takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError, require
from labs.lab5_distillation.distillation_loss import precise
from labs.lab5_distillation.objectives import Teacher


def mean_of_probabilities(
    members: Sequence[Tensor], *, temperature: float, weights: Sequence[float] | None = None
) -> Tensor:
    """Logits [N, C] whose softmax at ``temperature`` is the mean of the members'.

    ``T log sum_k w_k softmax(z_k / T)``. The mean is taken of probabilities: each member has one
    vote, however large its logits are. The mean of logits multiplies probabilities instead (the
    geometric mean, renormalised), so the member with the largest logits decides, and one member
    can rule a class out.

    Parameters
    ----------
    members
        Logits [N, C] of each teacher, classes in the same order.
    temperature
        The one that the loss will use; the mean is of probabilities at that temperature only.
    weights
        One a member, >= 0, at least one above 0; None: equal ones. They are divided by their sum.

    Raises
    ------
    InputError
        No member, members of different shapes, weights of another number or below 0.

    Notes
    -----
    Lakshminarayanan, Pritzel, Blundell (2017), arXiv 1612.01474, equation 2. Hinton et al. (2015)
    name both means.
    """
    _check(members)
    require(temperature > 0, "temperature", temperature, "must be > 0", "try 2.0")
    share = _shares(len(members), weights)
    logs = torch.stack(
        [
            torch.log_softmax(precise(logits) / temperature, -1) + math.log(weight)
            for logits, weight in zip(members, share, strict=True)
            if weight > 0
        ]
    )
    return temperature * torch.logsumexp(logs, dim=0)


def mean_of_logits(members: Sequence[Tensor]) -> Tensor:
    """The mean of the logits [N, C], to compare with: the larger a member's scale, the more say."""
    _check(members)
    return torch.stack([precise(logits) for logits in members]).mean(0)


class EnsembleTeacher:
    """Several teachers as one `objectives.Teacher`; see `mean_of_probabilities`."""

    def __init__(
        self,
        teachers: Sequence[Teacher],
        *,
        temperature: float,
        weights: Sequence[float] | None = None,
    ) -> None:
        if not teachers:
            raise InputError("no teacher: an ensemble needs one at least")
        self.teachers, self.temperature = tuple(teachers), temperature
        self.weights = _shares(len(teachers), weights)

    def __call__(self, batch: Any) -> Tensor:
        return mean_of_probabilities(
            [teacher(batch) for teacher in self.teachers],
            temperature=self.temperature,
            weights=self.weights,
        )


@dataclass(frozen=True)
class EnsembleReport:
    """What several models are worth together.

    Attributes
    ----------
    accuracies
        Of each member.
    accuracy
        Of the mean of probabilities at temperature 1.
    gain
        ``accuracy`` less the mean of ``accuracies``.
    agreement
        Share of texts on which two members choose the same class, mean over pairs. Members that
        agree on everything gain nothing.
    nll, mean_nll
        Negative log-likelihood of the labels in nats, of the ensemble and of a member on average.
        The first is never larger (Jensen).
    """

    accuracies: tuple[float, ...]
    accuracy: float
    gain: float
    agreement: float
    nll: float
    mean_nll: float


def report(members: Sequence[Tensor], labels: NDArray[np.int64]) -> EnsembleReport:
    """Members and ensemble on texts with labels [N].

    Parameters
    ----------
    members
        Logits [N, C] of two models at least.
    """
    require(len(members) >= 2, "number of members", len(members), "must be at least 2")
    together = mean_of_probabilities(members, temperature=1.0)
    known = torch.as_tensor(labels, device=together.device)
    chosen = [logits.argmax(-1) for logits in members]
    accuracies = tuple(float((each == known).double().mean()) for each in chosen)
    agreements = [float((a == b).double().mean()) for a, b in combinations(chosen, 2)]
    nll = [
        float(torch.nn.functional.cross_entropy(precise(logits), known))
        for logits in (together, *members)
    ]
    accuracy = float((together.argmax(-1) == known).double().mean())
    return EnsembleReport(
        accuracies=accuracies,
        accuracy=accuracy,
        gain=accuracy - float(np.mean(accuracies)),
        agreement=float(np.mean(agreements)),
        nll=nll[0],
        mean_nll=float(np.mean(nll[1:])),
    )


def _check(members: Sequence[Tensor]) -> None:
    if not members:
        raise InputError("no member: an ensemble needs one at least")
    shapes = {tuple(logits.shape) for logits in members}
    if len(shapes) > 1:
        raise InputError(
            f"members' logits have the shapes {sorted(shapes)}; all must answer the same texts "
            "and classes"
        )


def _shares(n: int, weights: Sequence[float] | None) -> tuple[float, ...]:
    given = [1.0] * n if weights is None else list(weights)
    require(len(given) == n, "number of weights", len(given), f"must be {n}, one a member")
    require(min(given) >= 0 and sum(given) > 0, "weights", given, "must be >= 0, not all 0")
    return tuple(weight / sum(given) for weight in given)
