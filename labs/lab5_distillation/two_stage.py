"""Two stages: a general student of the pretrained encoder, then the task from the fine-tuned one.

TinyBERT's student first learns the pretrained teacher's representation on general text, which
needs no label and serves every task, and only then the task, on augmented texts. Here the first
stage matches the pooled embedding. What a stage adds is judged at equal cost: the same student for
the same number of steps on the task's texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError, require
from labs.lab5_distillation.augmentation import AugmentedBatches, Augmenter, augment
from labs.lab5_distillation.distiller import OnStep
from labs.lab5_distillation.encoders import TextClassifier, freeze_embeddings
from labs.lab5_distillation.objectives import FrozenTeacher, Objective, Teacher
from labs.lab5_distillation.recipe import Recipe, accuracy, cached, distillation, frozen, logits
from labs.lab5_distillation.recipe import train as train_by
from labs.lab5_distillation.students import by_depth
from labs.lab5_distillation.tokens import Batch, TokenSet


def embedding(model: nn.Module, batch: Batch) -> Tensor:
    """A classifier's embedding of each text [B, H]: the mean of its tokens, before the head."""
    assert isinstance(model, TextClassifier)
    states = model.encoder(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask
    ).last_hidden_state
    return model.pool(states, batch.attention_mask)


class EmbeddingDistillation(Objective):
    """``1 - cos(W s, t)`` of the embeddings of student and teacher, the mean over the texts.

    ``W`` [H_teacher, H_student] learns along where the widths differ, and is the identity where
    they do not. The student's head takes no part.

    Notes
    -----
    Reimers and Gurevych (2020), arXiv 2004.09813, distil sentence encoders by their embeddings;
    TinyBERT's first stage (Jiao et al. 2020, arXiv 1909.10351, section 3.2) matches hidden states
    and attention maps layer by layer.
    """

    def __init__(self, student: TextClassifier, teacher: TextClassifier) -> None:
        super().__init__(student)
        self.teacher = FrozenTeacher(teacher, embedding)
        ours, theirs = student.encoder.config.hidden_size, teacher.encoder.config.hidden_size
        device = next(student.parameters()).device
        self.projection: nn.Module = (
            nn.Identity() if ours == theirs else nn.Linear(ours, theirs, bias=False, device=device)
        )

    def forward(self, batch: Batch) -> Tensor:
        found = self.projection(embedding(self.student, batch))
        return 1 - F.cosine_similarity(found.float(), self.teacher(batch).float()).mean()


def general_stage(
    student: TextClassifier,
    pretrained: TextClassifier,
    texts: TokenSet,
    recipe: Recipe,
    *,
    on_step: OnStep | None = None,
    checkpoint: Path | None = None,
    bad_batches: Path | None = None,
) -> list[float]:
    """Teach a student the pretrained encoder's embeddings of general texts, in place.

    Parameters
    ----------
    pretrained
        The teacher before fine-tuning; its head is not read.
    texts
        Labels are not read.
    checkpoint, bad_batches
        As in `distiller.fit`.

    Returns
    -------
    list of float
        Mean of ``1 - cosine`` of each epoch.
    """
    objective = EmbeddingDistillation(student, pretrained)
    return train_by(
        objective, texts, recipe, on_step=on_step, checkpoint=checkpoint, bad_batches=bad_batches
    )


def task_stage(
    student: TextClassifier,
    teacher: TextClassifier,
    texts: TokenSet,
    recipe: Recipe,
    *,
    made_by: Augmenter | None = None,
    temperature: float = 4.0,
    on_step: OnStep | None = None,
    checkpoint: Path | None = None,
    bad_batches: Path | None = None,
) -> list[float]:
    """Teach a student the fine-tuned teacher's answers, in place; labels are not read.

    Parameters
    ----------
    made_by
        Augments the texts anew in every epoch; the teacher then answers in every epoch too. None:
        the texts as they are, which the teacher answers once.
    checkpoint, bad_batches
        As in `distiller.fit`.

    Returns
    -------
    list of float
        Mean loss of each epoch.
    """
    answers: Teacher
    if made_by is None:
        loader, answers = None, cached(teacher, texts)
    else:
        loader = AugmentedBatches(texts, made_by, recipe.batch_size, recipe.seed)
        answers = frozen(teacher)
    objective = distillation(student, answers, temperature=temperature, alpha=1.0)
    return train_by(
        objective, texts, recipe, loader=loader, on_step=on_step, checkpoint=checkpoint,
        bad_batches=bad_batches,
    )  # fmt: skip


def two_stage(
    student: TextClassifier,
    pretrained: TextClassifier,
    teacher: TextClassifier,
    *,
    general: TokenSet,
    general_recipe: Recipe,
    task: TokenSet,
    task_recipe: Recipe,
    made_by: Augmenter | None = None,
    temperature: float = 4.0,
    on_step: OnStep | None = None,
    checkpoints: Path | None = None,
    bad_batches: Path | None = None,
) -> list[float]:
    """Both stages, in place; the mean loss of each epoch, those of the first stage first.

    ``checkpoints`` is a folder with a file for each stage, from which a stopped call goes on;
    ``bad_batches`` as in `distiller.fit`.

    Notes
    -----
    Jiao et al. (2020), TinyBERT, arXiv 1909.10351, section 3.2.
    """
    files = [checkpoints / f"{name}.pt" if checkpoints else None for name in ("general", "task")]
    first = general_stage(
        student, pretrained, general, general_recipe, on_step=on_step, checkpoint=files[0],
        bad_batches=bad_batches,
    )  # fmt: skip
    second = task_stage(
        student, teacher, task, task_recipe, made_by=made_by, temperature=temperature,
        on_step=on_step, checkpoint=files[1], bad_batches=bad_batches,
    )  # fmt: skip
    return first + second


@dataclass(frozen=True)
class Plan:
    """How a student is taught: from whose layers, with which stages.

    Attributes
    ----------
    copied
        Starts from layers of the fine-tuned teacher and its head; else from the pretrained ones.
    general
        Half of the steps go to the general stage.
    augmented
        The task's texts are augmented.
    """

    name: str
    copied: bool = False
    general: bool = False
    augmented: bool = False


PLANS = (
    Plan("task"),
    Plan("task, augmented", augmented=True),
    Plan("general, then task", general=True),
    Plan("general, then task, augmented", general=True, augmented=True),
    Plan("copied layers, task", copied=True),
    Plan("copied layers, task, augmented", copied=True, augmented=True),
)


@dataclass(frozen=True)
class Taught:
    """What a plan gave: steps, tokens the student read in training, and how it does on the test."""

    plan: Plan
    seed: int
    steps: int
    tokens: int
    accuracy: float
    agreement: float


def compare_plans(
    teacher: TextClassifier,
    pretrained: TextClassifier,
    *,
    layers: Sequence[int],
    general: TokenSet,
    task: TokenSet,
    test: TokenSet,
    recipe: Recipe,
    made_by: Augmenter,
    plans: Sequence[Plan] = PLANS,
    seeds: Sequence[int] = (0,),
    temperature: float = 4.0,
    on_step: OnStep | None = None,
    bad_batches: Path | None = None,
) -> list[Taught]:
    """One student by each plan and seed, each for the same number of steps.

    ``recipe.epochs`` passes over the task's texts are the budget. A plan with a general stage
    spends half of the epochs' steps on general texts and the other half on the task. General texts
    are longer, so an equal number of steps is more tokens; both are in the result.

    Raises
    ------
    InputError
        An odd number of epochs; fewer general texts than half of the steps read in one pass.
    """
    require(recipe.epochs % 2 == 0, "epochs", recipe.epochs, "must be even: half may be general")
    half = recipe.but(epochs=recipe.epochs // 2)
    wanted = half.epochs * -(-len(task) // recipe.batch_size) * recipe.batch_size
    if len(general) < wanted and any(plan.general for plan in plans):
        raise InputError(
            f"{len(general)} general texts; {wanted} are needed for {half.epochs} epochs' worth "
            "of steps: take fewer epochs or fewer task texts"
        )
    first = TokenSet(general.ids[:wanted], general.labels[:wanted], general.device)
    says = logits(teacher, test).argmax(1)
    found = []
    for seed in seeds:
        for plan in plans:
            student = by_depth(teacher if plan.copied else pretrained, layers)
            student.requires_grad_(True)
            freeze_embeddings(student)
            tokens = recipe.epochs * int(task.lengths.sum())
            extra = made_by if plan.augmented else None
            if plan.general:
                general_stage(
                    student, pretrained, first, half.but(epochs=1, seed=seed), on_step=on_step,
                    bad_batches=bad_batches,
                )  # fmt: skip
                tokens = tokens // 2 + int(first.lengths.sum())
            task_stage(
                student, teacher, task, (half if plan.general else recipe).but(seed=seed),
                made_by=extra, temperature=temperature, on_step=on_step, bad_batches=bad_batches,
            )  # fmt: skip
            answers = logits(student, test)
            found.append(
                Taught(
                    plan,
                    seed,
                    recipe.epochs * -(-len(task) // recipe.batch_size),
                    tokens,
                    accuracy(answers, test),
                    float((answers.argmax(1) == says).double().mean()),
                )
            )
    return found


@dataclass(frozen=True)
class Effect:
    """What augmentation does to a teacher's answers.

    Attributes
    ----------
    kept
        Share of the changed texts to which the teacher gives the label of the original.
    changed
        Share of the texts that came out different.
    before, after
        The largest probability that the teacher gives to any class, of the original texts [N] and
        of the changed ones.
    """

    kept: float
    changed: float
    before: NDArray[np.float64]
    after: NDArray[np.float64]


@torch.no_grad()
def effect_of(
    made_by: Augmenter, teacher: TextClassifier, texts: TokenSet, *, seed: int = 0
) -> Effect:
    """Ask a teacher about labelled texts before and after augmentation; two passes."""
    made = augment(texts, made_by, copies=1, seed=seed)
    differ = np.array([a != b for a, b in zip(texts.ids, made.ids, strict=True)])
    if not differ.any():
        raise InputError(f"none of {len(texts)} texts changed; raise the rates {made_by.rates}")
    before, after = (logits(teacher, each).double().softmax(1) for each in (texts, made))
    same = after.argmax(1).numpy() == texts.labels
    return Effect(
        float(same[differ].mean()),
        float(differ.mean()),
        before.amax(1).numpy(),
        after.amax(1).numpy()[differ],
    )
