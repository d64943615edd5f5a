"""The two models of the feed: a sequence encoder that retrieves, and a multi-task ranker.

Item 0 is padding; histories are right-aligned, so position -1 is the newest item.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capstone.value import HEADS, REACTIONS

Attention = Literal["softmax", "hstu"]


class Block(nn.Module):
    """Pre-norm transformer block with causal attention over a right-aligned history."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x : [B, L, D]; mask : [B, 1, L, L], True where a query may look."""
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.dropout(self.out(attended.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class HSTUBlock(nn.Module):
    """Hierarchical sequential transduction unit: pointwise attention, gated, and no MLP.

    With ``U, V, Q, K = SiLU(f1(norm(x)))``:  ``A = SiLU(Q K' + r) / N`` and
    ``x + f2(norm(A V) * U)``. ``r`` is a learned bias by distance. No softmax divides by the
    sum, so a strong preference seen ten times weighs ten times as much as one seen once.

    N is ``max_length``, not the length of the batch: a score must not change with its padding.

    References
    ----------
    Zhai et al. (2024), arXiv 2402.17152, equations 1 to 3; without their bias by time.
    """

    def __init__(self, width: int, heads: int, dropout: float, max_length: int) -> None:
        super().__init__()
        self.heads, self.max_length = heads, max_length
        self.norm = nn.LayerNorm(width)
        self.uvqk = nn.Linear(width, 4 * width)
        self.distance = nn.Parameter(torch.zeros(heads, max_length))
        self.norm_attended = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x : [B, L, D]; mask : [B, 1, L, L], True where a query may look."""
        batch, length, width = x.shape
        gate, *parts = F.silu(self.uvqk(self.norm(x))).chunk(4, dim=-1)
        v, q, k = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        position = torch.arange(length, device=x.device)
        apart = (position[:, None] - position[None, :]).clamp(min=0)
        weights = F.silu(q @ k.transpose(-1, -2) + self.distance[:, apart]) / self.max_length
        attended = (weights * mask) @ v
        mixed = self.norm_attended(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.dropout(self.out(mixed * gate))


def build_block(attention: Attention, width: int, dropout: float, max_length: int) -> nn.Module:
    """An untrained block with a head for every 16 dimensions."""
    if attention == "hstu":
        return HSTUBlock(width, width // 16, dropout, max_length)
    return Block(width, width // 16, dropout)


def attention_mask(history: Tensor) -> Tensor:
    """Causal, and blind to padding; every position may look at itself. [B, L] -> [B, 1, L, L]."""
    length = history.shape[1]
    position = torch.arange(length, device=history.device)
    causal = position[:, None] >= position[None, :]
    itself = position[:, None] == position[None, :]
    return ((history != 0)[:, None, :] & causal | itself)[:, None]


class SequenceEncoder(nn.Module):
    """Retrieval: SASRec (Kang & McAuley 2018, arXiv 1808.09781) with a full softmax.

    The dot product of the newest state and an item's embedding is the retrieval score, so the
    embeddings are what the FAISS index holds.
    """

    def __init__(
        self, n_items: int, width: int, max_length: int, *, layers: int = 2, dropout: float = 0.3
    ) -> None:
        super().__init__()
        self.n_items, self.width, self.max_length = n_items, width, max_length
        self.items = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.positions = nn.Embedding(max_length, width)
        self.blocks = nn.ModuleList(Block(width, width // 16, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.items.weight, std=width**-0.5)
        nn.init.normal_(self.positions.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[0] = 0

    def encode(self, history: Tensor) -> Tensor:
        """States after each item: [B, L] -> [B, L, D]."""
        length = history.shape[1]
        # Positions count back from the newest item, so a short history uses the same ones.
        positions = self.positions.weight[self.max_length - length :]
        x = self.dropout(self.items(history) + positions)
        mask = attention_mask(history)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def forward(self, history: Tensor) -> Tensor:
        """Logits of the next item at every position: [B, L] -> [B, L, n_items + 1]."""
        logits = self.encode(history) @ self.items.weight.T
        return logits.index_fill(-1, torch.zeros(1, dtype=torch.long, device=logits.device), -1e9)


class Ranker(nn.Module):
    """Multi-task ranker over a rated history: P(next = item) and P(reaction | item is watched).

    Reads item, genres, rating and position of the history; all heads share the encoder.
    ``engage`` is normalised over the whole catalogue, so a candidate's score never depends on the
    other candidates. The reactions (:data:`capstone.value.REACTIONS`) come from one MLP with an
    output each. Age, gender and occupation are not inputs: they are audited.
    """

    def __init__(
        self,
        genres: Tensor,
        width: int,
        max_length: int,
        *,
        layers: int = 2,
        dropout: float = 0.3,
        attention: Attention = "softmax",
    ) -> None:
        """genres : [n_items + 1, n_genres] multi-hot, row 0 all zero."""
        super().__init__()
        self.n_items, self.width, self.max_length = genres.shape[0] - 1, width, max_length
        self.register_buffer("genres", genres.float())
        self.genres: Tensor
        self.items = nn.Embedding(self.n_items + 1, width, padding_idx=0)
        self.genre = nn.Linear(genres.shape[1], width, bias=False)
        self.ratings = nn.Embedding(6, width, padding_idx=0)
        self.positions = nn.Embedding(max_length, width)
        self.blocks = nn.ModuleList(
            build_block(attention, width, dropout, max_length) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.reactions = nn.Sequential(
            nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, len(REACTIONS))
        )
        self.reaction_bias = nn.Embedding(self.n_items + 1, len(REACTIONS))
        for table in (self.items, self.ratings):
            nn.init.normal_(table.weight, std=width**-0.5)
            with torch.no_grad():
                table.weight[0] = 0
        nn.init.normal_(self.positions.weight, std=0.02)
        nn.init.zeros_(self.reaction_bias.weight)
        nn.init.normal_(self.genre.weight, std=0.02)

    def table(self) -> Tensor:
        """Item representations: [n_items + 1, D]."""
        return self.items.weight + self.genre(self.genres.to(self.genre.weight.dtype))

    def states(self, history: Tensor, ratings: Tensor, table: Tensor) -> Tensor:
        """States after each rated item: [B, L], [B, L] -> [B, L, D]."""
        positions = self.positions.weight[self.max_length - history.shape[1] :]
        x = self.dropout(F.embedding(history, table) + self.ratings(ratings) + positions)
        mask = attention_mask(history)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def engage_logits(self, states: Tensor, table: Tensor) -> Tensor:
        """[..., D] -> [..., n_items + 1], padding masked."""
        logits = states @ table.T
        return logits.index_fill(-1, torch.zeros(1, dtype=torch.long, device=logits.device), -1e9)

    def reaction_logits(self, states: Tensor, items: Tensor, table: Tensor) -> Tensor:
        """[..., D] states and [...] items -> [..., R] logits of each reaction to the item."""
        chosen = F.embedding(items, table)
        features = torch.cat([states.expand_as(chosen), chosen, states * chosen], dim=-1)
        return self.reactions(features) + self.reaction_bias(items)

    def forward(self, history: Tensor, ratings: Tensor, nexts: Tensor) -> tuple[Tensor, Tensor]:
        """Training view: logits of the next item, and of the reactions to the item that came.

        history, ratings, nexts : [B, L] -> engage [B, L, n_items + 1], reactions [B, L, R].
        """
        table = self.table()
        states = self.states(history, ratings, table)
        return self.engage_logits(states, table), self.reaction_logits(states, nexts, table)


class RankCandidates(nn.Module):
    """Serving view of a ranker: scores of candidates after the newest item."""

    outputs = tuple(f"p_{head}" for head in HEADS)
    """Names of what :meth:`forward` returns, in order: those of the ONNX model."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, history: Tensor, ratings: Tensor, candidates: Tensor) -> tuple[Tensor, ...]:
        """history, ratings : [B, L]; candidates : [B, C].

        Returns
        -------
        p_engage : [B, C]
            P(next = candidate), over the whole catalogue.
        p_like, p_love, p_dislike : [B, C] each
            P(rating >= 4), P(rating = 5), P(rating <= 2), each given that the candidate is watched.
        """
        table = self.ranker.table()
        last = self.ranker.states(history, ratings, table)[:, -1:]
        engage = F.softmax(self.ranker.engage_logits(last, table), dim=-1).squeeze(1)
        reactions = torch.sigmoid(self.ranker.reaction_logits(last, candidates, table))
        return engage.gather(1, candidates), *reactions.unbind(-1)


class EncodeUser(nn.Module):
    """Serving view of the retrieval encoder: the query vector after the newest item."""

    def __init__(self, encoder: SequenceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, history: Tensor) -> Tensor:
        """[B, L] -> [B, D]."""
        return self.encoder.encode(history)[:, -1]
