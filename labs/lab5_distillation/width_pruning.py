"""Students by width: the attention heads and feed-forward neurons that matter least are cut out.

The matrices become smaller, so that the student is smaller and faster on any hardware, unlike one
with zeros in its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError, require
from labs.lab5_distillation.encoders import TextClassifier, clone, layers_of
from labs.lab5_distillation.importance import Importance, linear, places_of, widths
from labs.lab5_distillation.recipe import accuracy, logits
from labs.lab5_distillation.tokens import TokenSet


def by_width(
    teacher: TextClassifier,
    *,
    importance: Importance,
    heads: int | None = None,
    inner: int | None = None,
) -> TextClassifier:
    """The teacher with the most important heads and neurons of each layer, and the rest cut out.

    Parameters
    ----------
    importance
        From `taylor_importance`.
    heads, inner
        Attention heads and feed-forward neurons that every layer keeps; None keeps all.

    Returns
    -------
    TextClassifier
        Shares nothing with the teacher; the kept parts in their order, so that with all of them it
        gives the teacher's logits exactly.

    Raises
    ------
    InputError
        Fewer than one or more than a layer has.

    Examples
    --------
    >>> scores = taylor_importance(teacher, train_texts)
    >>> student = by_width(teacher, importance=scores, heads=6, inner=768)
    """
    sizes = widths(teacher)
    for name, wanted, has in (
        ("heads", heads, min(n for n, _ in sizes)),
        ("inner", inner, min(n for _, n in sizes)),
    ):
        require(
            wanted is None or 1 <= wanted <= has, name, wanted, f"must be from 1 to {has} per layer"
        )
    return cut(teacher, _most(importance.heads, heads), _most(importance.neurons, inner))


def _most(scores: Sequence[Tensor], keep: int | None) -> list[list[int]]:
    """Of each layer, the places of the largest scores, ascending."""
    return [sorted(each.argsort(descending=True, stable=True)[:keep].tolist()) for each in scores]


def cut(
    model: TextClassifier, heads: Sequence[Sequence[int]], neurons: Sequence[Sequence[int]]
) -> TextClassifier:
    """A copy of a model with only the given heads and neurons of each layer.

    Layers may keep different numbers. ``config.num_attention_heads`` and ``intermediate_size``
    follow where all layers agree; transformers cannot rebuild such a model from its config, for it
    takes the width of a head to be hidden_size / heads. To load saved weights, cut a new model to
    the same sizes first, no matter which heads and neurons.

    Raises
    ------
    InputError
        Not one list per layer, an empty one, or a place that a layer lacks.
    """
    places, sizes = places_of(model), widths(model)
    _check("heads", heads, [n for n, _ in sizes])
    _check("neurons", neurons, [n for _, n in sizes])
    student = clone(model).requires_grad_(True)
    for layer, kept_heads, kept_neurons in zip(layers_of(student), heads, neurons):
        attention: Any = layer.get_submodule(places.attention)
        size = attention.attention_head_size
        rows = torch.tensor([head * size + i for head in kept_heads for i in range(size)])
        for path in places.into:
            _replace(layer, path, keep_outputs(linear(layer, path), rows))
        _replace(layer, places.out, keep_inputs(linear(layer, places.out), rows))
        setattr(attention, places.counts, len(kept_heads))
        if hasattr(attention, "all_head_size"):
            attention.all_head_size = len(rows)
        chosen = torch.tensor(list(kept_neurons))
        _replace(layer, places.first, keep_outputs(linear(layer, places.first), chosen))
        _replace(layer, places.second, keep_inputs(linear(layer, places.second), chosen))
    config = student.encoder.config
    if len(counts := {len(each) for each in heads}) == 1:
        config.num_attention_heads = counts.pop()
    if len(counts := {len(each) for each in neurons}) == 1:
        inner = "hidden_dim" if hasattr(config, "hidden_dim") else "intermediate_size"
        setattr(config, inner, counts.pop())
    return student.train(model.training)


def _check(what: str, kept: Sequence[Sequence[int]], limits: Sequence[int]) -> None:
    """Refuse what names no part of a layer, or one twice."""
    if len(kept) != len(limits):
        raise InputError(f"{what} of {len(kept)} layers given; the encoder has {len(limits)}")
    for layer, (chosen, limit) in enumerate(zip(kept, limits)):
        different = len(set(chosen)) == len(chosen) > 0
        if not different or min(chosen) < 0 or max(chosen) >= limit:
            raise InputError(
                f"{what} {list(chosen)} of layer {layer} must be one or more different ones of 0 "
                f"to {limit - 1}"
            )


@torch.no_grad()
def keep_outputs(layer: nn.Linear, kept: Tensor) -> nn.Linear:
    """A linear map with some of its outputs: rows of the weight [out, in], and of the bias."""
    return _made(layer.weight[kept], None if layer.bias is None else layer.bias[kept])


@torch.no_grad()
def keep_inputs(layer: nn.Linear, kept: Tensor) -> nn.Linear:
    """A linear map of some of its inputs: columns of the weight; the bias belongs to outputs."""
    return _made(layer.weight[:, kept], layer.bias)


def _made(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    outputs, inputs = weight.shape
    made = nn.Linear(inputs, outputs, bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone().contiguous())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def _replace(layer: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(layer.get_submodule(parent), name, module)


@dataclass(frozen=True)
class Cut:
    """Accuracy right after cutting, before any training."""

    ranking: str
    share: float
    heads: int
    inner: int
    accuracy: float


def cutting_curve(
    teacher: TextClassifier,
    texts: TokenSet,
    rankings: Mapping[str, Importance],
    shares: Sequence[float] = (0.75, 0.5, 0.25),
) -> list[Cut]:
    """Accuracy on ``texts`` when each layer keeps a share of its heads and neurons.

    Costs one pass over the texts per ranking and share, cheaper with the share. It compares
    rankings; what a student is worth shows after training.
    """
    n_heads, n_inner = widths(teacher)[0]
    found = []
    for name, importance in rankings.items():
        for share in shares:
            heads, inner = max(1, round(share * n_heads)), max(1, round(share * n_inner))
            student = by_width(teacher, importance=importance, heads=heads, inner=inner).eval()
            found.append(Cut(name, share, heads, inner, accuracy(logits(student, texts), texts)))
    return found
