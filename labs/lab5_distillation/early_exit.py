"""Leaving a network at the first exit that is sure enough: easy texts cost fewer layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import require
from labs.lab5_distillation.encoders import layers_of
from labs.lab5_distillation.layer_by_layer import embedded
from labs.lab5_distillation.own_deeper_head import ExitClassifier
from labs.lab5_distillation.tokens import Batches, TokenSet


@dataclass(frozen=True)
class Answers:
    """Logits [B, C] of the exit at which each text left, and the layers [B] it was run through."""

    logits: Tensor
    layers: Tensor


@torch.no_grad()
def answer_early(
    model: ExitClassifier, input_ids: Tensor, attention_mask: Tensor, *, threshold: float
) -> Answers:
    """Run texts layer by layer; each leaves at the first exit with enough confidence.

    Confidence is the largest probability of the exit's softmax. A text that leaves is taken out of
    the batch, so that the layers above compute on the others only, and none once all have left.

    Parameters
    ----------
    model
        In evaluation mode.
    input_ids, attention_mask
        Int64 [B, L].
    threshold
        Least confidence to leave with; above 1 every text goes to the deepest head.

    Notes
    -----
    Teerapittayanon et al. (2016), *BranchyNet*, arXiv 1709.01686 (which asks the entropy); Xin et
    al. (2020), *DeeBERT*, arXiv 2004.12993.
    """
    require(not model.training, "model.training", True, "must be False", "call model.eval()")
    states, mask = embedded(model, input_ids, attention_mask)
    real = attention_mask
    waiting = torch.arange(len(input_ids), device=input_ids.device)
    logits = states.new_empty(len(input_ids), len(model.names))
    taken = torch.zeros_like(waiting)
    for done, layer in enumerate(layers_of(model), start=1):
        states = layer(states, mask)
        if done not in model.depths:
            continue
        found = model.head_after(done)(model.pool(states, real))
        leaves = found.softmax(-1).amax(-1) >= threshold
        if done == model.depths[-1]:
            leaves = torch.ones_like(leaves)
        logits[waiting[leaves]] = found[leaves].to(logits.dtype)
        taken[waiting[leaves]] = done
        if bool(leaves.all()):
            break
        stay = ~leaves
        states, real, waiting = states[stay], real[stay], waiting[stay]
        mask = None if mask is None else mask[stay]
    return Answers(logits, taken)


@dataclass(frozen=True)
class ExitPoint:
    """One threshold: accuracy, mean layers run, and the share of texts that left at each exit."""

    threshold: float
    accuracy: float
    mean_layers: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class ExitCurve:
    """`ExitPoint` of each threshold; ``alone``: (layers, accuracy) of each exit used for all."""

    points: tuple[ExitPoint, ...]
    alone: tuple[tuple[int, float], ...]


@torch.no_grad()
def all_exit_logits(model: ExitClassifier, texts: TokenSet, batch_size: int = 128) -> Tensor:
    """Logits [E, N, C] float32 on the CPU of every exit, in evaluation mode."""
    was = model.training
    model.eval()
    found = torch.empty(len(model.depths), len(texts), len(model.names))
    for batch in Batches(texts, batch_size):
        logits = model.exit_logits(batch.input_ids, batch.attention_mask)
        found[:, batch.rows.cpu()] = torch.stack(logits).float().cpu()
    model.train(was)
    return found


def first_confident(exit_logits: Tensor, threshold: float) -> NDArray[np.int64]:
    """Number [N] of the first exit whose largest probability reaches the threshold, else the last.

    Parameters
    ----------
    exit_logits
        [E, N, C], the deepest exit last.
    """
    sure = exit_logits.softmax(-1).amax(-1) >= threshold
    sure[-1] = True
    chosen: NDArray[np.int64] = sure.int().argmax(0).numpy().astype(np.int64)
    return chosen


def exit_curve(
    exit_logits: Tensor,
    depths: Sequence[int],
    labels: NDArray[np.int64],
    thresholds: Sequence[float],
) -> ExitCurve:
    """Accuracy against layers run, from the logits of all exits.

    Parameters
    ----------
    exit_logits
        [E, N, C] of `all_exit_logits`.
    depths
        Layers below each exit, E of them.
    labels
        Int [N].
    thresholds
        Confidences to try. Choose one on validation texts, not on those it is reported for.
    """
    right = (exit_logits.argmax(-1).numpy() == labels).astype(float)
    rows = np.arange(len(labels))
    layers = np.asarray(depths)
    points = []
    for threshold in thresholds:
        exits = first_confident(exit_logits, threshold)
        shares = np.bincount(exits, minlength=len(layers)) / len(labels)
        points.append(
            ExitPoint(
                threshold,
                float(right[exits, rows].mean()),
                float(layers[exits].mean()),
                tuple(float(share) for share in shares),
            )
        )
    alone = tuple((int(d), float(a)) for d, a in zip(layers, right.mean(1), strict=True))
    return ExitCurve(tuple(points), alone)


def early_exit_curve(
    model: ExitClassifier, texts: TokenSet, thresholds: Sequence[float]
) -> ExitCurve:
    """`exit_curve` of a model for texts: every layer runs once, whatever the thresholds."""
    return exit_curve(all_exit_logits(model, texts), model.depths, texts.labels, thresholds)


def layers_in_batches(
    layers: NDArray[np.int64], batch_size: int, *, seed: int = 0, draws: int = 1000
) -> float:
    """Mean layers that a batch runs when it goes on until its slowest text has left.

    Early exits save time for texts that arrive one at a time. In a batch the kernels run until the
    last text is done; this is the mean over random batches of the largest of ``batch_size`` values.

    Parameters
    ----------
    layers
        Int [N]: layers that each text would run alone.
    """
    require(batch_size >= 1, "batch_size", batch_size, "must be at least 1")
    drawn = np.random.default_rng(seed).choice(layers, size=(draws, batch_size))
    return float(drawn.max(axis=1).mean())
