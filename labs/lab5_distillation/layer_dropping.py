"""Shrinking a network while it trains: modules replaced at a rising rate, or layers dropped.

Distillation compares outputs of two networks. These two methods have one network that turns from
the teacher into the student by a schedule, so that the student's layers always work among layers
that already know the task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab5_distillation.distillation_loss import distillation_loss
from labs.lab5_distillation.encoders import (
    TextClassifier,
    clone,
    layers_of,
    layers_path,
    read,
)
from labs.lab5_distillation.layer_by_layer import embedded
from labs.lab5_distillation.objectives import Objective, Teacher
from labs.lab5_distillation.students import by_depth
from labs.lab5_distillation.tokens import Batch

Layer = Callable[[Tensor], Tensor]
"""Token states to token states."""


@exercise(
    "5.13",
    points=10,
    title="Replacing modules at a rising rate",
    hint="At which step must the predecessor have gone for good? And what does a layer of the "
    "successor that lies below a module of the predecessor learn from?",
)
@dataclass(frozen=True)
class Replacement:
    """When the successor's layers stand in for the predecessor's modules.

    Attributes
    ----------
    start
        Rate at step 0, 0 to 1.
    full_at
        Step from which on the successor runs alone; at least 1.

    Notes
    -----
    Xu et al. (2020), *BERT-of-Theseus*, arXiv 2002.02925, sections 3.1 and 3.2 (curriculum
    replacement).
    """

    start: float
    full_at: int

    def rate(self, step: int) -> float:
        """Probability that a module is replaced at a step: from ``start`` linearly to 1, then 1."""
        return min(1.0, self.start + (1.0 - self.start) * step / self.full_at)

    def mixed(
        self,
        states: Tensor,
        predecessor: Sequence[Sequence[Layer]],
        successor: Sequence[Layer],
        step: int,
        generator: torch.Generator,
    ) -> Tensor:
        """One pass through a network of M modules, each the predecessor's or the successor's.

        Module m is ``successor[m]`` with probability ``rate(step)``, drawn for each module on its
        own, and otherwise all layers of ``predecessor[m]``, one after the other. The predecessor's
        parameters are frozen by whoever made it; gradients pass *through* its layers.

        Parameters
        ----------
        states
            [B, L, H].
        predecessor
            M modules, each a sequence of layers.
        successor
            M layers.
        step
            Steps done before this pass.
        generator
            Source of the draws, one number for each module.

        Returns
        -------
        Tensor
            States [B, L, H] after the last module.
        """
        rate = self.rate(step)
        for module, layer in zip(predecessor, successor, strict=True):
            if float(torch.rand((), generator=generator)) < rate:
                states = layer(states)
            else:
                for each in module:
                    states = each(states)
        return states


class Theseus(Objective):
    """Train a successor inside its frozen predecessor, replacing modules by a schedule.

    The loss is cross-entropy with the labels and nothing else: the predecessor teaches by what its
    layers make of the successor's states. In the successor's phase, once the rate is 1, it is
    plain fine-tuning. The successor uses its own embeddings and head all along; they start as the
    predecessor's.

    Parameters
    ----------
    predecessor
        A classifier that knows the task. It is copied; the copy is frozen and stays in evaluation
        mode.
    layers
        Layers of the successor, a divisor of the predecessor's. The predecessor's are divided into
        so many modules of equal length, and layer m starts as the last one of module m.
    schedule
        See `Replacement`.
    seed
        Seed of the draws, which depend on it and the step alone: a resumed run draws as before.

    Attributes
    ----------
    steps
        Batches learned from.
    layers_run
        Layers computed in learning from them, of both.
    """

    student: TextClassifier
    steps: Tensor
    layers_run: Tensor

    def __init__(
        self,
        predecessor: TextClassifier,
        layers: int,
        schedule: Replacement,
        *,
        seed: int = 0,
    ) -> None:
        has = len(layers_of(predecessor))
        if not 1 <= layers < has or has % layers:
            raise InputError(
                f"layers = {layers!r} must divide the predecessor's {has} and be fewer; each layer "
                "of the successor replaces as many of them as every other"
            )
        require(0 <= schedule.start <= 1, "start", schedule.start, "must be from 0 to 1")
        require(schedule.full_at >= 1, "full_at", schedule.full_at, "must be at least 1 step")
        per = has // layers
        super().__init__(by_depth(predecessor, range(per - 1, has, per)))
        frozen = clone(predecessor).eval().requires_grad_(False)
        self._modules_of_old = [
            [layers_of(frozen)[m * per + i] for i in range(per)] for m in range(layers)
        ]
        self.schedule, self.seed = schedule, seed
        # Buffers, so that a checkpoint has them.
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("layers_run", torch.tensor(0))
        self._ran = 0

    def logits(self, batch: Batch, step: int) -> Tensor:
        """Logits [B, C] of the mixed network as it is drawn for a step."""
        self._ran = 0
        state = np.random.SeedSequence([self.seed, step]).generate_state(1)
        states, mask = embedded(self.student, batch.input_ids, batch.attention_mask)
        run = partial(self._run, mask=mask)
        states = self.schedule.mixed(
            states,
            [[partial(run, each) for each in module] for module in self._modules_of_old],
            [partial(run, each) for each in layers_of(self.student)],
            step,
            torch.Generator().manual_seed(int(state[0])),
        )
        pooled = self.student.pool(states, batch.attention_mask)
        found: Tensor = self.student.head(self.student.dropout(pooled))
        return found

    def _run(self, layer: nn.Module, states: Tensor, mask: Tensor | None) -> Tensor:
        self._ran += 1
        found: Tensor = layer(states, mask)
        return found

    def forward(self, batch: Any) -> Tensor:
        loss = F.cross_entropy(self.logits(batch, int(self.steps)), batch.labels)
        if self.training:
            self.steps += 1
            self.layers_run += self._ran
        return loss


Choose = Callable[[TextClassifier, Batch], int]
"""``choose(student, batch)`` -> place of the layer to drop."""


@torch.no_grad()
def least_missed(model: TextClassifier, batch: Batch) -> int:
    """Place of the layer without which the logits of a batch change least (mean KL divergence)."""
    layers = layers_of(model)
    was = model.training
    model.eval()
    whole = read(model, batch).log_softmax(-1)
    changes = []
    for place in range(len(layers)):
        _keep(model, [layer for i, layer in enumerate(layers) if i != place])
        without = read(model, batch).log_softmax(-1)
        changes.append(float(F.kl_div(without, whole, reduction="batchmean", log_target=True)))
    _keep(model, list(layers))
    model.train(was)
    return min(range(len(changes)), key=changes.__getitem__)


def _keep(model: TextClassifier, layers: Sequence[nn.Module]) -> None:
    where, name = layers_path(model).rsplit(".", 1)
    setattr(model.get_submodule(where), name, nn.ModuleList(layers))
    model.encoder.config.num_hidden_layers = len(layers)


class LayerDropping(Objective):
    """Distil a student that starts as deep as its teacher and loses a layer at each drop.

    Between two drops the layers that are left learn to do without the one that went. The student
    object is the same all along; a dropped layer's parameters get no further gradient, and an
    optimizer such as AdamW leaves them alone. The set of parameters changes on the way, so such a
    run has no checkpoint to go on from; ``recipe.train(..., bad_batches=folder)`` still saves the
    batch of a step that is not finite.

    Parameters
    ----------
    student
        Usually a copy of the teacher; it is changed.
    teacher
        A function from a batch to logits.
    drops
        Steps at which a layer goes, not falling; the student must keep one. Steps are counted from
        0, and the drop comes before the step.
    choose
        Which one goes, judged on the batch of that step.

    Attributes
    ----------
    dropped
        (step, place among the layers of that time) of each drop so far.
    layers_run
        Layers computed so far in training, without those for choosing.
    """

    student: TextClassifier

    def __init__(
        self,
        student: TextClassifier,
        teacher: Teacher,
        drops: Sequence[int],
        *,
        temperature: float = 4.0,
        alpha: float = 1.0,
        choose: Choose = least_missed,
    ) -> None:
        super().__init__(student)
        has = len(layers_of(student))
        if len(drops) >= has or list(drops) != sorted(drops) or (drops and drops[0] < 0):
            raise InputError(
                f"drops {tuple(drops)} must be steps >= 0 that do not fall, and fewer than the "
                f"student's {has} layers: one has to stay"
            )
        self.teacher, self.drops, self.choose = teacher, tuple(drops), choose
        self.temperature, self.alpha = temperature, alpha
        self.steps, self.layers_run = 0, 0
        self.dropped: list[tuple[int, int]] = []

    def forward(self, batch: Any) -> Tensor:
        if self.training:
            while len(self.dropped) < len(self.drops) and (
                self.steps >= self.drops[len(self.dropped)]
            ):
                self._drop(batch)
            self.steps += 1
            self.layers_run += len(layers_of(self.student))
        return distillation_loss(
            read(self.student, batch),
            self.teacher(batch),
            batch.labels,
            temperature=self.temperature,
            alpha=self.alpha,
        )

    def _drop(self, batch: Batch) -> None:
        place = self.choose(self.student, batch)
        layers = layers_of(self.student)
        require(0 <= place < len(layers), "layer to drop", place, f"must be below {len(layers)}")
        _keep(self.student, [layer for i, layer in enumerate(layers) if i != place])
        self.dropped.append((self.steps, place))


def even_drops(total: int, n: int, until: float = 0.5) -> tuple[int, ...]:
    """Steps of ``n`` drops, evenly spaced from 0 to the share ``until`` of ``total`` steps.

    The first is at step 0, since a copy of the teacher has nothing to learn from it. The steps
    after the last drop are the finished student's own.
    """
    require(total >= 1, "total", total, "must be at least 1 step")
    require(n >= 1, "n", n, "must be at least 1 drop")
    require(0 < until <= 1, "until", until, "must be above 0 and at most 1")
    return tuple(int(i * until * total / n) for i in range(n))
