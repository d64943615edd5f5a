"""Does the inside of the teacher teach more than its logits? The same student, once a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from common.errors import InputError
from labs.lab5_distillation import recipe as recipes
from labs.lab5_distillation.attention_maps import AttentionMaps
from labs.lab5_distillation.encoders import TextClassifier
from labs.lab5_distillation.feature_distillation import FeatureDistillation, FeatureLoss
from labs.lab5_distillation.hidden_states import HiddenStates
from labs.lab5_distillation.layer_maps import LayerMap
from labs.lab5_distillation.recipe import Recipe
from labs.lab5_distillation.relations import Relations
from labs.lab5_distillation.tokens import TokenSet

METHODS = ("logits", "hidden states", "attention maps", "relations", "all features")
WEIGHTS: Mapping[str, float] = {"hidden states": 10.0, "attention maps": 1.0, "relations": 1.0}
"""Of each comparison beside the logits, which have 1.

In the first step of a student of layers (0, 5) of a fine-tuned MiniLM the gradient over its layers
has norm 12 for the logits (T = 4), 2.3 for relations, 0.7 for maps and 0.2 for hidden states. These
weights bring them within a factor of twenty of the logits; nobody tuned them further.
"""


@dataclass(frozen=True)
class FeatureRun:
    """A student that one method trained, and the mean loss of each epoch."""

    student: TextClassifier
    losses: list[float]


def feature_losses(
    method: str,
    student: TextClassifier,
    teacher: TextClassifier,
    layers: LayerMap,
    *,
    heads: int = 12,
) -> dict[str, FeatureLoss]:
    """The comparisons that a method of `METHODS` adds to the logits, by name.

    Raises
    ------
    InputError
        An unknown method.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} must be one of {', '.join(METHODS)}")
    makers: dict[str, Callable[[], FeatureLoss]] = {
        "hidden states": lambda: HiddenStates(student, teacher, layers),
        "attention maps": lambda: AttentionMaps(student, teacher, layers),
        "relations": lambda: Relations(student, teacher, heads=heads),
    }
    return {name: make() for name, make in makers.items() if method in (name, "all features")}


def compare_features(
    teacher: TextClassifier,
    student_maker: Callable[[], TextClassifier],
    texts: TokenSet,
    recipe: Recipe,
    layers: LayerMap,
    *,
    methods: Sequence[str] = METHODS,
    weights: Mapping[str, float] = WEIGHTS,
    heads: int = 12,
    temperature: float = 4.0,
    alpha: float = 1.0,
) -> dict[str, FeatureRun]:
    """Train the same student once a method, on the same batches by the same recipe.

    Parameters
    ----------
    student_maker
        Makes the student, the same each time: torch's generator is set to the recipe's seed
        before.
    layers
        Which layer learns from which, for hidden states and attention maps. Relations compare the
        last layers.
    methods
        Some of `METHODS`. ``"logits"`` is the plain distillation that the others must beat.
    weights
        Of each comparison beside the logits, which have 1.
    heads
        Relation heads.

    Returns
    -------
    dict
        Method to `FeatureRun`.

    Notes
    -----
    The cost: ``"logits"`` asks the teacher once for all epochs, each other method in every step.
    """
    found = {}
    for method in methods:
        torch.manual_seed(recipe.seed)
        student = student_maker()
        losses = feature_losses(method, student, teacher, layers, heads=heads)
        objective = (
            FeatureDistillation(
                student,
                teacher,
                list(losses.values()),
                weights=[weights[name] for name in losses],
                temperature=temperature,
                alpha=alpha,
            )
            if losses
            else recipes.distillation(
                student, recipes.cached(teacher, texts), temperature=temperature, alpha=alpha
            )
        )
        found[method] = FeatureRun(student, recipes.train(objective, texts, recipe))
    return found
