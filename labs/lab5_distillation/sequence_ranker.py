"""A small ranker with two heads, as a pair for a distiller that knows nothing of texts.

The capstone's ranker in outline: a transformer over the items that a user saw, which says at every
position what comes next (a softmax over items) and whether the user will like it (one logit).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labs.lab5_distillation.distillation_loss import binary_distillation_loss, distillation_loss
from labs.lab5_distillation.objectives import FrozenTeacher, TaskDistillation

Heads = dict[str, Tensor]


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each normalised before and added after."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """States [B, L, H] to states."""
        b, n, h = x.shape
        q, k, v = self.mix(self.norm(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, h))
        return x + self.feed(x)


class SequenceRanker(nn.Module):
    """Item ids [B, L] to ``{"next": [B, L, items], "like": [B, L]}``."""

    def __init__(
        self, items: int, width: int, layers: int, *, length: int = 32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.items, self.places = nn.Embedding(items, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 2, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.next, self.like = nn.Linear(width, items), nn.Linear(width, 1)

    def forward(self, history: Tensor) -> Heads:
        x = self.items(history) + self.places.weight[: history.shape[1]]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return {"next": self.next(x), "like": self.like(x)[..., 0]}


@dataclass(frozen=True)
class Histories:
    """Items, the items after them and whether those were liked: int64 [B, L] each."""

    history: Tensor
    nexts: Tensor
    liked: Tensor


class Walks:
    """Batches of synthetic users, each walking over items in steps of its own.

    The next item is ``item + stride`` modulo the number of items, with some noise; even items are
    liked, mostly. The order of users depends on the seed and the epoch alone.
    """

    def __init__(
        self, users: int = 64, size: int = 16, *, items: int = 20, length: int = 8, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        steps = rng.integers(1, 4, (users, 1)) + (rng.random((users, length + 1)) < 0.1)
        walk = (rng.integers(0, items, (users, 1)) + steps.cumsum(1)) % items
        liked = (walk % 2 == 0) ^ (rng.random(walk.shape) < 0.1)
        self.walk, self.liked = torch.from_numpy(walk), torch.from_numpy(liked.astype(np.int64))
        self.size, self.seed, self.epoch, self.items = size, seed, 0, items

    def __len__(self) -> int:
        return -(-len(self.walk) // self.size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the users."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Histories]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.walk))
        for at in range(0, len(order), self.size):
            users = torch.from_numpy(order[at : at + self.size])
            walk, liked = self.walk[users], self.liked[users]
            yield Histories(walk[:, :-1], walk[:, 1:], liked[:, 1:])


def read_heads(model: nn.Module, batch: Histories) -> Heads:
    """Both heads of a ranker for a batch."""
    heads: Heads = model(batch.history)
    return heads


def task_loss(heads: Heads, batch: Histories) -> Tensor:
    """Cross-entropy of the next item plus that of the like, means over positions."""
    following = F.cross_entropy(heads["next"].flatten(0, 1), batch.nexts.flatten())
    return following + F.binary_cross_entropy_with_logits(heads["like"], batch.liked.float())


@dataclass(frozen=True)
class SoftHeads:
    """The soft part of both heads' distillation losses at a temperature."""

    temperature: float

    def __call__(self, student: Heads, teacher: Heads, batch: Histories) -> Tensor:
        following = distillation_loss(
            student["next"].flatten(0, 1),
            teacher["next"].flatten(0, 1),
            batch.nexts.flatten(),
            temperature=self.temperature,
            alpha=1.0,
        )
        like = binary_distillation_loss(
            student["like"],
            teacher["like"],
            batch.liked,
            temperature=self.temperature,
            alpha=1.0,
        )
        return following + like


def ranker_distillation(
    student: nn.Module, teacher: nn.Module, *, temperature: float = 2.0, alpha: float = 0.5
) -> TaskDistillation:
    """Both heads of a ranker learn from a larger one's and from what happened."""
    return TaskDistillation(
        student,
        FrozenTeacher(teacher, read_heads),
        task_loss,
        SoftHeads(temperature),
        alpha=alpha,
        forward=read_heads,
    )
