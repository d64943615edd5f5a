"""The ranker of impressions: history and candidates in one sequence, candidates isolated.

The field's current design: a decoder reads what a user did (SASRec, Kang & McAuley 2018; HSTU,
Zhai et al. 2024), and each candidate is a token behind it that attends to that history
(target-aware, as DIN, Zhou et al. 2018), with one logit a reaction. The blocks are lab 1's; only
the mask and the places differ, so the same code runs from 20 thousand to over a billion parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from capstone.candidate_mask import isolation_mask
from capstone.downsampling import ANY
from common.errors import require
from labs.lab1_fsdp_advanced.model import Attention, Block, Decoder, Shape, Turns, rotate
from labs.lab1_fsdp_advanced.throughput import model_flops_per_token

HEADS = ("click", "long_view", "hide", "share")
LOGITS = (*HEADS, ANY)
"""Outputs of the model; the last, "any reaction", is what the downsampling correction needs."""
TOP = 0
"""The position that serving scores every candidate at: as if it were shown first."""
SizeName = Literal["tiny", "small", "medium", "full"]
SIZES: dict[SizeName, Shape] = {
    "tiny": Shape(16, 1, 2, context=8, kv_heads=1),
    "small": Shape(64, 2, 4, context=20, kv_heads=2),
    "medium": Shape(512, 8, 8, context=100, kv_heads=4),
    "full": Shape(2048, 24, 16, context=255, kv_heads=4),
}
"""Blocks by size; ``context`` is the longest history. The blocks of "full" alone have 1.06 billion
parameters, to which the tables add 2048 an item."""
FULL_PARAMETERS = 1_000_000_000
AGE_EDGES = (0.5, 1.0, 2.0, 4.0, 7.0, 14.0, 30.0, 90.0, 180.0, 365.0)
"""Days at which an item's age changes its bucket."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Vocabulary:
    """What the tables hold: ids from 1 (0 is padding), positions from 0."""

    items: int
    creators: int
    reactions: int
    positions: int

    def __post_init__(self) -> None:
        for name in ("items", "creators", "reactions", "positions"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")


@dataclass(frozen=True)
class Requests:
    """What is to be scored: one history a row and its candidates.

    Attributes
    ----------
    history, reactions : int64 [B, L]
        Items, oldest first, right-aligned with 0 as padding, and what the user did with each.
    candidates, creators, ages : int64 [B, C]
        Items, their creators, and how long ago they appeared (:func:`age_bucket`).
    positions : int64 [B, C]
        Where each was shown (training), or :data:`TOP` everywhere (serving).
    """

    history: Tensor
    reactions: Tensor
    candidates: Tensor
    creators: Tensor
    ages: Tensor
    positions: Tensor

    def on(self, device: torch.device | str) -> Requests:
        return Requests(*(part.to(device) for part in vars(self).values()))

    def at_the_top(self) -> Requests:
        """The same as serving asks: no candidate has a position yet."""
        return replace(self, positions=torch.full_like(self.positions, TOP))


class Layout(Turns):
    """Places and mask of one forward pass: history 0..L-1, and *all* candidates at place L.

    With places of their own, the order in which candidates are handed in would be a feature. Like
    ``Turns`` a plain object, which FSDP does not cast to the type it computes in.
    """

    def __init__(self, history: Tensor, n_candidates: int, head_width: int) -> None:
        length = history.shape[1]
        super().__init__(length + 1, head_width, history.device)
        places = torch.arange(length + n_candidates, device=history.device).clamp(max=length)
        self.cos, self.sin = self.cos[places], self.sin[places]
        self.mask = isolation_mask(history, n_candidates)


class IsolatingAttention(Attention):
    """Lab 1's grouped-query attention, under the mask of a :class:`Layout`, not a causal one."""

    def forward(self, x: Tensor, turns: Turns) -> Tensor:
        """[B, L + C, D] -> [B, L + C, D]; ``turns`` is a :class:`Layout`."""
        query, key, value = (
            layer(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(
            rotate(query, turns),
            rotate(key, turns),
            value,
            attn_mask=turns.mask,  # type: ignore[attr-defined]
            enable_gqa=query.shape[1] != key.shape[1],
        )
        mixed: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return mixed


def isolating_block(shape: Shape) -> Block:
    """Lab 1's pre-norm block around :class:`IsolatingAttention`."""
    block = Block(shape)
    block.attention = IsolatingAttention(shape)
    return block


class TargetRanker(nn.Module):
    """Logits of :data:`LOGITS` for each candidate, given the history and nothing else.

    The position enters at the very end, as a logit of its own for each reaction: a *shallow* tower
    (Zhao et al., *Recommending What Video to Watch Next*, RecSys 2019). So "was shown on top" can
    explain a click, and cannot mix with what the item is. Serving sets every candidate to
    :data:`TOP`, where it is a constant.
    """

    def __init__(self, shape: Shape, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.shape = shape
        self.items = nn.Embedding(vocabulary.items + 1, shape.width)
        self.creators = nn.Embedding(vocabulary.creators + 1, shape.width)
        self.reactions = nn.Embedding(vocabulary.reactions + 1, shape.width)
        self.ages = nn.Embedding(len(AGE_EDGES) + 1, shape.width)
        self.positions = nn.Embedding(vocabulary.positions, len(LOGITS))
        self.blocks = nn.ModuleList(isolating_block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, len(LOGITS), bias=False)

    @torch.no_grad()
    def init_weights(self, seed: int, rates: ArrayLike | None = None) -> None:
        """Lab 1's: the same weights from ``seed`` on any number of ranks.

        Parameters
        ----------
        rates
            Share of the training rows with each of :data:`LOGITS`. The position tower starts at
            their log-odds: otherwise the first hundreds of steps go into finding them.
        """
        Decoder.init_weights(self, seed)  # type: ignore[arg-type]
        if rates is not None:
            base = torch.from_numpy(logit(np.asarray(rates))).float()
            table = self.positions.weight
            local = table.to_local() if isinstance(table, DTensor) else table
            local.copy_(base.expand_as(local))

    def layout(self, history: Tensor, n_candidates: int) -> Layout:
        """Places and mask of the sequence."""
        return Layout(history, n_candidates, self.shape.head_width)

    def forward(self, requests: Requests) -> Tensor:
        """Logits [B, C, heads]."""
        length, n_candidates = requests.history.shape[1], requests.candidates.shape[1]
        past = self.items(requests.history) + self.reactions(requests.reactions)
        targets = self.items(requests.candidates)
        targets = targets + self.creators(requests.creators) + self.ages(requests.ages)
        x = torch.cat([past, targets], dim=1)
        layout = self.layout(requests.history, n_candidates)
        for block in self.blocks:
            x = block(x, layout)
        logits: Tensor = self.head(self.norm(x[:, length:])) + self.positions(requests.positions)
        return logits


def shape_of(size: SizeName) -> Shape:
    """The blocks' shape, by name.

    Raises
    ------
    InputError
        For a name that is no size.
    """
    require(size in SIZES, "size", size, f"must be one of {', '.join(get_args(SizeName))}")
    return SIZES[size]


def meta_model(size: SizeName, vocabulary: Vocabulary) -> TargetRanker:
    """The model without memory, to be counted or sharded."""
    with torch.device("meta"):
        model = TargetRanker(shape_of(size), vocabulary)
    if size == "full":
        found = parameters(model)
        require(found >= FULL_PARAMETERS, "parameters of full", found, "must be >= 1 billion")
    return model


def parameters(model: nn.Module) -> int:
    """Trained parameters, tables included."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(shape: Shape, tokens: int) -> int:
    """Lab 1's count of training operations a token, in sequences of ``tokens``.

    The tables are look-ups and count nothing; the logits are the only "vocabulary" of the head.
    """
    return model_flops_per_token(replace(shape, vocabulary=len(LOGITS)), tokens)


@torch.no_grad()
def probabilities(model: nn.Module, requests: Requests) -> dict[str, Floats]:
    """Each head's probabilities [B, C], float64, as the kept rows have them (uncorrected)."""
    model.eval()
    found = torch.sigmoid(model(requests).double()).cpu().numpy()
    return {head: found[..., number] for number, head in enumerate(LOGITS)}


def age_bucket(days: ArrayLike) -> NDArray[np.int64]:
    """Bucket of each age in days, 0 (today) to ``len(AGE_EDGES)``; any shape."""
    return np.searchsorted(AGE_EDGES, np.asarray(days), side="right")


def labels_of(reactions: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.float32]:
    """Labels [n, heads] in the order of :data:`LOGITS`; "any" is the union of the others."""
    columns = [np.asarray(reactions[head], dtype=bool) for head in HEADS]
    return np.stack([*columns, np.logical_or.reduce(columns)], axis=1).astype(np.float32)
