"""A network taught by its own deeper head: exits after shallow layers learn from the last one.

One encoder, a head after some of its layers, all trained together. No second network has to be
trained first, and afterwards there is a choice: cut the network at an exit and serve a shallow
student, or keep all exits and leave early where one is sure (`early_exit`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab5_distillation.encoders import TextClassifier, layers_of
from labs.lab5_distillation.layer_by_layer import states_after_each_layer
from labs.lab5_distillation.objectives import Objective
from labs.lab5_distillation.students import by_depth

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ExitClassifier(TextClassifier):
    """A text classifier with further heads after some of its shallow layers.

    It is still the plain classifier: ``forward`` gives the logits of the deepest head, ``head``.
    ``heads[i]`` reads the mean of the tokens after ``exits[i]`` layers.

    Parameters
    ----------
    exits
        Number of layers below each shallow exit, rising, from 1 to below the encoder's depth.

    Raises
    ------
    InputError
        No exits, or not as described.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        names: tuple[str, ...],
        exits: Sequence[int],
        dropout: float = 0.1,
    ) -> None:
        super().__init__(encoder, names, dropout)
        depth = len(layers_of(self))
        rising = all(low < high for low, high in pairwise(exits))
        if not exits or not rising or exits[0] < 1 or exits[-1] >= depth:
            raise InputError(
                f"exits {tuple(exits)} must rise from at least 1 to below {depth}, the encoder's "
                "number of layers; the deepest head needs no mention"
            )
        self.exits = tuple(exits)
        width = self.head.in_features
        self.heads = nn.ModuleList(nn.Linear(width, len(names)) for _ in exits)

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers below each head, the deepest last."""
        return (*self.exits, len(layers_of(self)))

    def head_after(self, layers: int) -> nn.Linear:
        """The head that reads the states after so many layers."""
        require(layers in self.depths, "exit", layers, f"must be one of {self.depths}")
        found = [*self.heads, self.head][self.depths.index(layers)]
        assert isinstance(found, nn.Linear)
        return found

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Mean token states [B, H] at each exit, the deepest last; every layer runs once."""
        states = states_after_each_layer(self, input_ids, attention_mask)
        return [
            self.pool(each, attention_mask)
            for layers, each in enumerate(states, start=1)
            if layers in self.depths
        ]

    def exit_logits(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Logits [B, C] of each exit, the deepest last."""
        return self.read_exits(self.pooled(input_ids, attention_mask))

    def read_exits(self, pooled: Sequence[Tensor]) -> list[Tensor]:
        """The heads' logits for the states of `pooled`."""
        heads = [*self.heads, self.head]
        return [head(self.dropout(each)) for head, each in zip(heads, pooled, strict=True)]


def with_exits(model: TextClassifier, exits: Sequence[int]) -> ExitClassifier:
    """A copy of a classifier with new heads, drawn from torch's generator, after shallow layers.

    The deepest head is the classifier's own.
    """
    encoder = copy.deepcopy(model.encoder)
    found = ExitClassifier(encoder, model.names, exits, dropout=model.dropout.p)
    found.head.load_state_dict(model.head.state_dict())
    return found.to(model.head.weight.device).train(model.training)


def cut(model: ExitClassifier, layers: int) -> TextClassifier:
    """The shallow student that ends at an exit: a plain classifier with the exit's head.

    Its logits are the exit's; it shares nothing with ``model`` and has none of its other heads.

    Parameters
    ----------
    layers
        One of ``model.depths``.
    """
    head = model.head_after(layers)
    whole = TextClassifier(model.encoder, model.names, model.dropout.p)
    whole.head = head
    return by_depth(whole, range(layers)).train(model.training)


@exercise(
    "5.12",
    points=10,
    title="Loss of exits taught by the deepest head",
    hint="Who may move whom? Write down which head each term should change, then ask autograd: "
    "through which tensor could a shallow head's loss reach the deepest one?",
)
def deeper_head_loss(
    exit_logits: Sequence[Tensor],
    labels: Tensor,
    *,
    temperature: float,
    alpha: float,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Every head learns the labels; shallow heads also learn what the deepest one says.

    With z_1 ... z_D the heads' logits, z_D the deepest::

        L_D = CE(labels, softmax(z_D))
        L_e = (1 - alpha) CE(labels, softmax(z_e))
              + alpha T**2 KL(softmax(stop(z_D) / T) || softmax(z_e / T))        for e < D
        L   = sum_e w_e L_e / sum_e w_e

    ``stop`` takes its argument as a constant: the teacher must not learn to be easy to imitate.

    Parameters
    ----------
    exit_logits
        Tensors [B, C], from the shallowest head to the deepest; two at least.
    labels
        Int64 [B].
    temperature
        T > 0.
    alpha
        Weight of the deepest head's answers, 0 to 1; with 0 every head learns from labels alone.
    weights
        A weight >= 0 for each head, the deepest last; None: all 1.

    Returns
    -------
    Tensor
        Scalar; CE and KL are means over the batch.

    Raises
    ------
    InputError
        Fewer than two heads, weights of another number, or values out of range.

    Notes
    -----
    Zhang et al. (2019), *Be Your Own Teacher*, arXiv 1905.08094, equations 1 to 4, without the
    hints on features, which `DeeperHead` adds.
    """
    check_exits(exit_logits, temperature, alpha, weights)
    *shallow, deepest = exit_logits
    each = weights if weights is not None else [1.0] * len(exit_logits)
    targets = F.log_softmax(deepest.detach() / temperature, dim=-1)
    total = each[-1] * F.cross_entropy(deepest, labels)
    for weight, logits in zip(each[:-1], shallow, strict=True):
        soft = F.kl_div(
            F.log_softmax(logits / temperature, dim=-1),
            targets,
            reduction="batchmean",
            log_target=True,
        )
        hard = F.cross_entropy(logits, labels)
        total = total + weight * (alpha * temperature**2 * soft + (1 - alpha) * hard)
    return total / sum(each)


def check_exits(
    exit_logits: Sequence[Tensor],
    temperature: float,
    alpha: float,
    weights: Sequence[float] | None,
) -> None:
    """Refuse what `deeper_head_loss` cannot mean.

    Raises
    ------
    InputError
        As described there.
    """
    require(len(exit_logits) >= 2, "number of heads", len(exit_logits), "must be at least 2")
    require(temperature > 0, "temperature", temperature, "must be > 0", "try 2.0")
    require(0 <= alpha <= 1, "alpha", alpha, "must be from 0 to 1", "try 0.5")
    if weights is not None:
        fits = len(weights) == len(exit_logits) and min(weights) >= 0 and sum(weights) > 0
        must = f"must be {len(exit_logits)} values >= 0, not all 0: one for each head"
        require(fits, "weights", tuple(weights), must)


class DeeperHead(Objective):
    """`deeper_head_loss` of an `ExitClassifier`, and optionally its hint on features.

    The hint is ``feature_weight`` times the mean squared distance of the mean token states at each
    shallow exit from those at the deepest, which are taken as a constant. The widths are equal in
    one encoder, so no projection is needed.

    Unlike a frozen teacher, the deepest head answers as it trains: with dropout, and better with
    every step.
    """

    student: ExitClassifier

    def __init__(
        self,
        student: ExitClassifier,
        *,
        temperature: float = 2.0,
        alpha: float = 0.5,
        weights: Sequence[float] | None = None,
        feature_weight: float = 0.0,
    ) -> None:
        super().__init__(student)
        fits = feature_weight >= 0
        require(fits, "feature_weight", feature_weight, "must be >= 0", "0 leaves the hint out")
        check_exits([torch.empty(0)] * len(student.depths), temperature, alpha, weights)
        self.temperature, self.alpha = temperature, alpha
        self.weights, self.feature_weight = weights, feature_weight

    def forward(self, batch: Any) -> Tensor:
        pooled = self.student.pooled(batch.input_ids, batch.attention_mask)
        loss = deeper_head_loss(
            self.student.read_exits(pooled),
            batch.labels,
            temperature=self.temperature,
            alpha=self.alpha,
            weights=self.weights,
        )
        if self.feature_weight:
            *shallow, deepest = pooled
            hints = [F.mse_loss(each, deepest.detach()) for each in shallow]
            loss = loss + self.feature_weight * torch.stack(hints).mean()
        return loss
