"""How alike two models' representations are: linear centred kernel alignment (CKA)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError, require
from labs.lab5_distillation.encoders import TextClassifier, layers_of, read
from labs.lab5_distillation.feature_distillation import layer_path
from labs.lab5_distillation.hooks import Taps
from labs.lab5_distillation.tokens import Batches, TokenSet


def cka(x: ArrayLike, y: ArrayLike) -> float:
    """Linear CKA of two representations of the same examples.

    ``||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)`` of centred columns: 0 to 1. It does not change
    when either side is rotated, reflected, shifted or scaled as a whole, so the order of a layer's
    units does not matter; unlike canonical correlation it does change under other linear maps.

    Parameters
    ----------
    x, y
        Float arrays [n, p] and [n, q]; row i of both is example i.

    Returns
    -------
    float

    Raises
    ------
    InputError
        Other numbers of examples, fewer than 2, a number that is not finite, or a representation
        that is the same for all.

    Notes
    -----
    Kornblith et al. (2019), arXiv 1905.00414, section 3. With fewer examples than units it is
    biased towards 1: two random representations of 10 examples in 384 units look alike. Use
    several times as many examples as units.
    """
    left, right = (np.asarray(each, np.float64) for each in (x, y))
    for name, each in (("x", left), ("y", right)):
        if each.ndim != 2 or not np.isfinite(each).all():
            raise InputError(f"{name} {each.shape} must be finite numbers [n, units]")
    if len(left) != len(right):
        raise InputError(f"x has {len(left)} examples and y {len(right)}; they must be the same")
    require(len(left) >= 2, "examples", len(left), "must be at least 2")
    left, right = left - left.mean(0), right - right.mean(0)
    scale = float(np.linalg.norm(left.T @ left) * np.linalg.norm(right.T @ right))
    require(scale > 0, "variance", scale, "must be > 0", "one side is the same for all examples")
    return float(np.linalg.norm(right.T @ left) ** 2 / scale)


@torch.no_grad()
def layer_states(
    model: TextClassifier, texts: TokenSet, *, batch_size: int = 64
) -> list[NDArray[np.float32]]:
    """States of each layer for all real tokens, in evaluation mode.

    Returns
    -------
    list
        One array [tokens, width] a layer; tokens come in one order, which depends on the texts
        alone, so that two models' rows belong together.
    """
    was = model.training
    model.eval()
    paths = [layer_path(model, layer) for layer in range(len(layers_of(model)))]
    found: list[list[NDArray[np.float32]]] = [[] for _ in paths]
    for batch in Batches(texts, batch_size):
        real = batch.attention_mask.bool()
        with Taps(model, paths) as taps:
            read(model, batch)
        for states, path in zip(found, paths, strict=True):
            states.append(taps[path][real].float().cpu().numpy())
    model.train(was)
    return [np.concatenate(states) for states in found]


def layer_similarity(
    student: TextClassifier, teacher: TextClassifier, texts: TokenSet
) -> NDArray[np.float64]:
    """`cka` of each student layer with each teacher layer over the real tokens, [S, T].

    Memory: all layers of both for all tokens; 300 texts of 12 tokens are 45 MB for 6 + 2 layers of
    width 384.
    """
    theirs = layer_states(teacher, texts)
    return np.array([[cka(s, t) for t in theirs] for s in layer_states(student, texts)])
