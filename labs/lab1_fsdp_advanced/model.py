"""The model that the lab shards: a decoder-only transformer of 10 million to 8 billion parameters.

Pre-norm blocks of grouped-query attention with rotary positions and of a SwiGLU MLP: the layout of
Llama (Touvron et al. 2023, arXiv 2302.13971). RMSNorm: Zhang & Sennrich 2019, arXiv 1910.07467.
Rotary positions: Su et al. 2021, arXiv 2104.09864. SwiGLU: Shazeer 2020, arXiv 2002.05202.
Grouped queries: Ainslie et al. 2023, arXiv 2305.13245.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from common.errors import require

ROTARY_BASE = 10_000.0
HIDDEN_MULTIPLE = 64


@dataclass(frozen=True)
class Shape:
    """Size of a :class:`Decoder`.

    Attributes
    ----------
    width
        Of the residual stream; a multiple of ``heads``.
    heads, kv_heads
        Query heads, and the key/value heads they share (None: one for each query head).
    context
        Tokens that a training window predicts.
    hidden
        Width inside the MLP; None: 8/3 of ``width``, rounded up to a multiple of 64, which makes
        the three matrices of SwiGLU as large as the two of a GELU MLP of 4 x width.
    """

    width: int
    layers: int
    heads: int
    context: int
    vocabulary: int = 256
    kv_heads: int | None = None
    hidden: int | None = None

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "context", "vocabulary"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("kv_heads", "hidden"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "must be at least 1, or None")
        require(
            self.width % (2 * self.heads) == 0,
            "width",
            self.width,
            f"must be a multiple of 2 x heads = {2 * self.heads}: rotary positions turn pairs",
        )
        require(
            self.heads % self.key_value_heads == 0,
            "kv_heads",
            self.key_value_heads,
            f"must divide heads = {self.heads}",
        )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def key_value_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def key_value_width(self) -> int:
        return self.key_value_heads * self.head_width

    @property
    def mlp_width(self) -> int:
        if self.hidden is not None:
            return self.hidden
        return HIDDEN_MULTIPLE * math.ceil(8 * self.width / 3 / HIDDEN_MULTIPLE)

    @property
    def block_parameters(self) -> int:
        """Of one block: queries and output, keys and values, three MLP matrices, two norms."""
        attention = 2 * self.width**2 + 2 * self.width * self.key_value_width
        return attention + 3 * self.width * self.mlp_width + 2 * self.width

    @property
    def parameters(self) -> int:
        """Of the whole model: blocks, token embedding, last norm and head."""
        outside = 2 * self.vocabulary * self.width + self.width
        return self.layers * self.block_parameters + outside


SIZES = {
    "0.2M": Shape(64, 2, 4, 64, 1024, kv_heads=2),
    "4M": Shape(192, 6, 6, 128, 4096, kv_heads=2),
    "10M": Shape(256, 8, 4, 256, 8192, kv_heads=2),
    "50M": Shape(512, 12, 8, 512, 16384, kv_heads=4),
    "125M": Shape(768, 12, 12, 1024, 32000, kv_heads=4),
    "350M": Shape(1024, 25, 16, 2048, 32000, kv_heads=4),
    "1B": Shape(2048, 20, 16, 2048, 32000, kv_heads=4),
    "1.3B": Shape(2048, 26, 16, 2048, 32000, kv_heads=4),
    "3B": Shape(3072, 28, 24, 4096, 32000, kv_heads=8),
    "8B": Shape(4096, 32, 32, 4096, 128256, kv_heads=8, hidden=14336),
    "13B": Shape(5120, 40, 40, 4096, 32000, hidden=13824),
    "27B": Shape(6656, 60, 52, 4096, 32000, kv_heads=4),
}
"""Shapes by name; 8B is that of Llama 3, 13B that of Llama 2."""


class Turns:
    """Cosine and sine of what each position turns its pairs by: fp32, [L, D / 2] each.

    Pair i of position p turns by ``p * base**(-2i / D)`` (arXiv 2104.09864, equation 15).

    Made once a forward pass, outside what is compiled: a compiler would fuse power, cosine and sine
    into every kernel that rotates, which cost a tenth of a step of 1.3B parameters. Not a buffer,
    which would have to survive meta devices and sharding. And a plain object: FSDP casts the
    tensors that a block is given to its computing type, those in tuples and dataclasses too, and
    bf16 cannot tell position 2,047 from 2,046.
    """

    def __init__(self, length: int, head_width: int, device: torch.device) -> None:
        half = head_width // 2
        rates = ROTARY_BASE ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
        places = torch.arange(length, device=device, dtype=torch.float32)
        angles = torch.outer(places, rates)
        self.cos, self.sin = angles.cos(), angles.sin()


def rotate(x: Tensor, turns: Turns) -> Tensor:
    """Turn the pairs (i, i + D / 2) of each head, in fp32: [B, H, L, D], same out.

    The product of a query and a key then depends on their distance only.
    """
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = turns.cos, turns.sin
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention; each key/value head serves ``heads / kv_heads`` query heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_width = shape.head_width
        self.query = nn.Linear(shape.width, shape.width, bias=False)
        self.key = nn.Linear(shape.width, shape.key_value_width, bias=False)
        self.value = nn.Linear(shape.width, shape.key_value_width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, turns: Turns) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        query, key, value = (
            layer(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(
            rotate(query, turns),
            rotate(key, turns),
            value,
            is_causal=True,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        mixed: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return mixed


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.mlp_width, bias=False)
        self.up = nn.Linear(shape.width, shape.mlp_width, bias=False)
        self.down = nn.Linear(shape.mlp_width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual connection."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(shape.width)
        self.attention = Attention(shape)
        self.norm_mlp = nn.RMSNorm(shape.width)
        self.mlp = SwiGLU(shape)

    def forward(self, x: Tensor, turns: Turns) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x = x + self.attention(self.norm_attention(x), turns)
        mixed: Tensor = x + self.mlp(self.norm_mlp(x))
        return mixed


class Decoder(nn.Module):
    """Causal language model; :meth:`init_weights` gives it weights that depend on a seed only."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fill every weight from ``seed`` and its place, whole or sharded: the same model anywhere.

        Each rank draws one whole weight after the other and keeps its rows. Nothing is sent, at
        most one whole weight exists at a time, and the model does not depend on the number of
        ranks (but on the kind of device: CPUs and GPUs draw different numbers). Matrices are normal
        with deviation 0.02, those that write to the residual stream 0.02 / sqrt(2 layers) (GPT-2's
        rule); norms are 1.
        """
        for place, (name, parameter) in enumerate(self.named_parameters()):
            if parameter.ndim < 2:
                parameter.fill_(1.0)
                continue
            residual = name.endswith(("out.weight", "down.weight"))
            deviation = 0.02 / math.sqrt(2 * self.shape.layers) if residual else 0.02
            # Drawn where the model computes: a GPU draws other numbers than a CPU, on which its
            # shards may be.
            device = parameter.device.type
            if isinstance(parameter, DTensor):
                device = parameter.device_mesh.device_type
            drawn = torch.Generator(device).manual_seed(1_000_003 * seed + place)
            whole = torch.empty(parameter.shape, device=device)
            whole.normal_(std=deviation, generator=drawn)
            if isinstance(parameter, DTensor):
                mesh, placements = parameter.device_mesh, parameter.placements
                kept = distribute_tensor(whole, mesh, placements, src_data_rank=None)
                parameter.to_local().copy_(kept.to_local())
            else:
                parameter.copy_(whole)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token: [B, L] -> [B, L, vocabulary]."""
        x = self.tokens(tokens)
        turns = Turns(tokens.shape[-1], self.shape.head_width, tokens.device)
        for block in self.blocks:
            x = block(x, turns)
        logits: Tensor = self.head(self.norm(x))
        return logits


def next_token_loss(model: nn.Module, window: Tensor) -> Tensor:
    """Cross-entropy in nats a token, of windows [B, L + 1]: each position predicts the next."""
    logits = model(window[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), window[:, 1:].flatten())
