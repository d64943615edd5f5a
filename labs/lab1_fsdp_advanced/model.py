"""A small decoder transformer over bytes: the model that the lab shards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import require


@dataclass(frozen=True)
class Shape:
    """Size of a :class:`Decoder`."""

    width: int
    layers: int
    heads: int
    context: int
    vocabulary: int = 256

    def __post_init__(self) -> None:
        require(
            self.width % self.heads == 0,
            "width",
            self.width,
            f"must be a multiple of heads = {self.heads}",
        )

    @property
    def parameters(self) -> int:
        """Number of parameters: 12 width**2 + 2 width a block, embeddings, norm and head."""
        block = 12 * self.width**2 + 2 * self.width
        outside = (2 * self.vocabulary + self.context + 1) * self.width
        return self.layers * block + outside


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.RMSNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        mixed: Tensor = x + self.down(F.gelu(self.up(self.norm_mlp(x))))
        return mixed


class Decoder(nn.Module):
    """Causal language model (GPT-2's layout with RMSNorm and no biases)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token: [B, L] -> [B, L, vocabulary]."""
        x = self.tokens(tokens) + self.positions(
            torch.arange(tokens.shape[1], device=tokens.device)
        )
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def next_token_loss(model: nn.Module, window: Tensor) -> Tensor:
    """Cross-entropy in nats a token, of windows [B, L + 1]: each position predicts the next."""
    logits = model(window[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), window[:, 1:].flatten())
