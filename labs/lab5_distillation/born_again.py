"""Born-again networks: a model of the same size taught by the last one, generation by generation.

Nothing is compressed here, so whatever is gained is not the size's. It has other explanations than
"knowledge of the teacher", and they are cheap to test: soft targets of any kind (label smoothing,
or the teacher's answers with the wrong classes shuffled), and having several models to average.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab5_distillation.encoders import TextClassifier
from labs.lab5_distillation.objectives import CachedTeacher, Objective
from labs.lab5_distillation.recipe import (
    Recipe,
    cached,
    distillation,
    logits,
    supervised,
    train,
)
from labs.lab5_distillation.tokens import TokenSet

Model = TypeVar("Model", bound=nn.Module)
Maker = Callable[[int], TextClassifier]
"""``maker(generation)`` -> an untrained model; its new head differs from one to the next."""


Learn = Callable[[Model, Model | None, int], None]
"""``learn(model, teacher, generation)`` trains ``model`` in place; no teacher: from labels."""


@exercise(
    "5.11",
    points=5,
    title="Generations of a born-again network",
    hint="Three questions for each generation: where do its weights come from, who teaches it, and "
    "in what is it different from every other?",
)
def generations(maker: Callable[[int], Model], learn: Learn[Model], n: int) -> list[Model]:
    """Train ``n`` models of one architecture, each under the one before it.

    Generation 0 learns from the labels. Generation k starts from weights of its own, those that
    ``maker(k)`` gives, and learns from generation k - 1, which has finished learning.

    Parameters
    ----------
    maker
        ``maker(k)`` gives an untrained model for generation k.
    learn
        ``learn(model, teacher, k)`` trains the model in place; the teacher of generation 0 is None.
    n
        Number of generations, the first included; at least 1.

    Returns
    -------
    list of Model
        The n models, generation 0 first.

    Raises
    ------
    InputError
        ``n`` below 1.

    Notes
    -----
    Furlanello et al. (2018), *Born-Again Neural Networks*, arXiv 1805.04770, section 3.1.
    """
    require(n >= 1, "n", n, "must be at least 1")
    found: list[Model] = []
    for generation in range(n):
        model = maker(generation)
        learn(model, found[-1] if found else None, generation)
        found.append(model)
    return found


def born_again(
    maker: Maker,
    texts: TokenSet,
    recipe: Recipe,
    n: int,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    checkpoints: Path | None = None,
    bad_batches: Path | None = None,
) -> list[TextClassifier]:
    """`generations` of text classifiers under the lab's recipe; each has the next seed.

    Costs n trainings, and one pass over the texts for each generation that teaches.
    ``checkpoints`` is a folder with a file for each generation, from which a stopped call goes on
    (``maker(k)`` must then give the same weights again); ``bad_batches`` as in `distiller.fit`.
    """

    def learn(model: TextClassifier, teacher: TextClassifier | None, generation: int) -> None:
        own = recipe.but(seed=recipe.seed + generation)
        if teacher is None:
            objective: Objective = supervised(model)
        else:
            known = cached(teacher, texts)
            objective = distillation(model, known, temperature=temperature, alpha=alpha)
        file = checkpoints / f"generation-{generation}.pt" if checkpoints else None
        train(objective, texts, own, checkpoint=file, bad_batches=bad_batches)

    return generations(maker, learn, n)


def independent(
    maker: Maker,
    texts: TokenSet,
    recipe: Recipe,
    n: int,
    *,
    label_smoothing: float = 0.0,
    bad_batches: Path | None = None,
) -> list[TextClassifier]:
    """The control: as many models with the same starts and seeds, each from the labels alone.

    With label smoothing each has the teacher that knows nothing: smoothing s is, but for a
    constant, the distillation loss at T = 1 and alpha = s of a teacher whose logits are all equal
    (Yuan et al. 2020, *Revisiting Knowledge Distillation via Label Smoothing Regularization*,
    arXiv 1909.11723). Without it, the first is generation 0 of `born_again`.
    """

    def learn(model: TextClassifier, teacher: TextClassifier | None, generation: int) -> None:
        own = recipe.but(seed=recipe.seed + generation)
        train(supervised(model, label_smoothing), texts, own, bad_batches=bad_batches)

    return generations(maker, learn, n)


def permuted(teacher_logits: Tensor, seed: int) -> Tensor:
    """The teacher's answers with the wrong classes shuffled: as soft, and nothing in them.

    The largest logit of each row stays where it is, the others change places at random. What a
    student gains from these it does not owe to how the teacher ranks the wrong classes.

    Parameters
    ----------
    teacher_logits
        [N, C].
    seed
        Seed of the permutation of each row.

    Notes
    -----
    "Dark knowledge with permuted predictions", Furlanello et al. (2018), section 3.3.
    """
    if teacher_logits.ndim != 2:
        raise InputError(f"logits must be [N, C], not {tuple(teacher_logits.shape)}")
    noise = torch.rand(teacher_logits.shape, generator=torch.Generator().manual_seed(seed))
    noise = noise.to(teacher_logits.device)
    top = teacher_logits.argmax(1, keepdim=True)
    noise.scatter_(1, top, -1.0)  # first in the order, so it is taken out below
    others = noise.argsort(1)[:, 1:]
    places = torch.arange(teacher_logits.shape[1], device=top.device).expand_as(teacher_logits)
    free = places[places != top].view(len(top), -1)
    return teacher_logits.scatter(1, free, teacher_logits.gather(1, others))


def under_permuted(
    model: TextClassifier,
    teacher: TextClassifier,
    texts: TokenSet,
    recipe: Recipe,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    bad_batches: Path | None = None,
) -> TextClassifier:
    """Train ``model`` under the `permuted` answers of the teacher; returns it."""
    shuffled = CachedTeacher(permuted(logits(teacher, texts), recipe.seed).to(texts.device))
    objective = distillation(model, shuffled, temperature=temperature, alpha=alpha)
    train(objective, texts, recipe, bad_batches=bad_batches)
    return model
