"""Attention maps of any encoder, from its queries and keys.

Only transformers' ``eager`` attention has maps to give. ``sdpa`` and flash attention never build
the L x L matrix, which is why they are fast, and ``output_attentions=True`` then gives nothing
without an error. Queries and keys exist under each, so maps are computed from those, with a graph,
before dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InputError
from labs.lab5_distillation.encoders import TextClassifier
from labs.lab5_distillation.feature_distillation import FeatureDistillation, FeatureLoss
from labs.lab5_distillation.hooks import Taps
from labs.lab5_distillation.layer_maps import LayerMap
from labs.lab5_distillation.relations import Pair, attention_paths, check_relation, relation_loss

MapLoss = Callable[[Pair, Pair, Tensor, tuple[int, int]], Tensor]
"""``loss(student, teacher, mask, (student's heads, teacher's heads))`` -> scalar; each of the two
is (queries, keys), [B, L, width]."""


def attention_scores(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """``Q K^T / sqrt(d)`` of each head, before the softmax: [B, L, width] to [B, heads, L, L]."""
    one, other = (each.float().unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key))
    with torch.autocast(query.device.type, enabled=False):
        scores: Tensor = one @ other.transpose(-1, -2) / one.shape[-1] ** 0.5
    return scores


def log_attention_maps(query: Tensor, key: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Logarithm of `attention_maps`; about -3e38 at padding, so that sums of it stay finite."""
    scores = attention_scores(query, key, heads)
    real = mask.bool()[:, None, None, :]
    return F.log_softmax(scores.masked_fill(~real, torch.finfo(scores.dtype).min), dim=-1)


def attention_maps(query: Tensor, key: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Attention probabilities [B, heads, L (who looks), L (at whom)], 0 at padding.

    Parameters
    ----------
    query, key
        Outputs of the two linear maps, [B, L, width].
    mask
        [B, L], 1 or True at real tokens. Rows of padding are computed as well and mean nothing.
    heads
        The model's attention heads.
    """
    return log_attention_maps(query, key, mask, heads).exp()


def _same_heads(heads: tuple[int, int], instead: str) -> int:
    if heads[0] != heads[1]:
        raise InputError(
            f"the student has {heads[0]} attention heads and the teacher {heads[1]}; {instead} "
            "averages them, and relations need no equal heads"
        )
    return heads[0]


def attention_kl(student: Pair, teacher: Pair, mask: Tensor, heads: tuple[int, int]) -> Tensor:
    """Mean over heads and real tokens of ``KL(teacher's row || student's row)``.

    MiniLM's attention transfer (Wang et al. 2020, arXiv 2002.10957, equation 6); it is the
    query-key case of `relation_loss`.

    Raises
    ------
    InputError
        Different numbers of heads; see also `relation_loss`.
    """
    return relation_loss(student, teacher, mask, heads=_same_heads(heads, "mean_attention_kl"))


def mean_attention_kl(student: Pair, teacher: Pair, mask: Tensor, heads: tuple[int, int]) -> Tensor:
    """`attention_kl` of the maps' means over heads, whose numbers may differ.

    What distinguishes the heads is averaged away.
    """

    def log_mean(pair: Pair, count: int) -> Tensor:
        check_relation(pair, pair, mask, count)
        log_maps = log_attention_maps(*pair, mask, count)
        return log_maps.logsumexp(1) - torch.tensor(float(count)).log().item()

    with torch.no_grad():
        target = log_mean(teacher, heads[1])
    ours = log_mean(student, heads[0])
    divergence = F.kl_div(ours, target, reduction="none", log_target=True).sum(-1)
    return divergence[mask.bool()].mean()


def attention_mse(student: Pair, teacher: Pair, mask: Tensor, heads: tuple[int, int]) -> Tensor:
    """Mean squared difference of the scores before the softmax, over real pairs of tokens.

    TinyBERT's choice (Jiao et al. 2019, equation 7). A softmax ignores a constant added to a row;
    this loss does not, so it asks for more than equal maps.

    Raises
    ------
    InputError
        Different numbers of heads.
    """
    _same_heads(heads, "mean_attention_mse")
    return _squared(student, teacher, mask, heads, average=lambda scores: scores)


def mean_attention_mse(
    student: Pair, teacher: Pair, mask: Tensor, heads: tuple[int, int]
) -> Tensor:
    """`attention_mse` of the scores' means over heads, whose numbers may differ."""
    return _squared(
        student, teacher, mask, heads, average=lambda scores: scores.mean(1, keepdim=True)
    )


def _squared(
    student: Pair,
    teacher: Pair,
    mask: Tensor,
    heads: tuple[int, int],
    *,
    average: Callable[[Tensor], Tensor],
) -> Tensor:
    check_relation(student, student, mask, heads[0])
    check_relation(teacher, teacher, mask, heads[1])
    ours, theirs = (
        average(attention_scores(*pair, count))
        for pair, count in zip((student, teacher), heads, strict=True)
    )
    squares = (ours - theirs.detach()).square().mean(1)
    both = mask.bool()[:, :, None] & mask.bool()[:, None, :]
    return squares[both].mean()


def heads_of(model: TextClassifier, layer: int) -> int:
    """Attention heads of one layer, which differ between the layers of a pruned encoder."""
    place = attention_paths(model, layer)["query"].rpartition(".")[0]
    attention = model.get_submodule(place)
    for name in ("num_attention_heads", "n_heads", "num_heads"):
        if isinstance(found := getattr(attention, name, None), int):
            return found
    return int(model.encoder.config.num_attention_heads)


class AttentionMaps(FeatureLoss):
    """Mean over the pairs of a layer map of a `MapLoss`.

    Parameters
    ----------
    loss
        `attention_kl`, `attention_mse`, or one that averages heads, `mean_attention_kl` or
        `mean_attention_mse`.
    """

    def __init__(
        self,
        student: TextClassifier,
        teacher: TextClassifier,
        layers: LayerMap,
        *,
        loss: MapLoss = attention_kl,
    ) -> None:
        super().__init__()
        ours = [attention_paths(student, s) for s, _ in layers.pairs]
        theirs = [attention_paths(teacher, t) for _, t in layers.pairs]
        self.student_paths, self.teacher_paths = (
            tuple(each[kind] for each in paths for kind in ("query", "key"))
            for paths in (ours, theirs)
        )
        self.heads = [
            (heads_of(student, ours), heads_of(teacher, theirs)) for ours, theirs in layers.pairs
        ]
        self.loss = loss

    def forward(self, student: Taps, teacher: Taps, mask: Tensor) -> Tensor:
        found = []
        for place, heads in enumerate(self.heads):
            at = slice(2 * place, 2 * place + 2)
            ours, theirs = (
                (taps[paths[at][0]], taps[paths[at][1]])
                for taps, paths in ((student, self.student_paths), (teacher, self.teacher_paths))
            )
            found.append(self.loss(ours, theirs, mask, heads))
        return torch.stack(found).mean()


class AttentionDistillation(FeatureDistillation):
    """Attention maps beside the logits.

    Parameters
    ----------
    layers, loss
        Of `AttentionMaps`.
    weight
        Of the maps beside ``logits``, which has 1.
    options
        Of `FeatureDistillation`: ``logits``, ``temperature``, ``alpha``.
    """

    def __init__(
        self,
        student: TextClassifier,
        teacher: TextClassifier,
        layers: LayerMap,
        *,
        weight: float = 1.0,
        loss: MapLoss = attention_kl,
        **options: Any,
    ) -> None:
        compared = AttentionMaps(student, teacher, layers, loss=loss)
        super().__init__(student, teacher, [compared], weights=[weight], **options)


@torch.no_grad()
def maps_of(model: TextClassifier, input_ids: Tensor, attention_mask: Tensor, layer: int) -> Tensor:
    """Attention maps [B, heads, L, L] of a layer, in the model's present mode.

    The same under ``eager`` and ``sdpa``; dropout of maps is not in them.
    """
    paths = attention_paths(model, layer)
    with Taps(model, (paths["query"], paths["key"])) as taps:
        model(input_ids, attention_mask)
    query, key = taps[paths["query"]], taps[paths["key"]]
    return attention_maps(query, key, attention_mask, heads_of(model, layer))
