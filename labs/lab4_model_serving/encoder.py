"""A BERT encoder in a hundred lines of plain torch: the first layers of MiniLM, and a label.

It is written out, and not taken from transformers, because every road from a model to a server
starts here: TorchScript needs code it can compile, ``torch.export`` a forward without tricks, and
ONNX Runtime's fusions recognise attention by the shape of its graph. Tests hold it against
``transformers.BertModel``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import require


class Attention(nn.Module):
    """Softmax(Q K^T / sqrt(d)) V over ``heads`` (Vaswani et al. 2017, equation 1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [b, t, width]; ``bias`` [b, 1, 1, t] is added to the scores: 0, or very negative."""
        b, t = x.shape[0], x.shape[1]
        q = self.query(x).view(b, t, self.heads, self.size).transpose(1, 2)
        k = self.key(x).view(b, t, self.heads, self.size).transpose(1, 2)
        v = self.value(x).view(b, t, self.heads, self.size).transpose(1, 2)
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.size) + bias
        mixed = torch.matmul(torch.softmax(scores, dim=-1), v)
        return self.output(mixed.transpose(1, 2).reshape(b, t, self.heads * self.size))


class Layer(nn.Module):
    """Attention and a two-layer network, each added to its input and normalised after."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.inner = nn.Linear(width, inner)
        self.outer = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, bias)))
        inner = nn.functional.gelu(self.inner(x))
        return self.norm(x + self.dropout(self.outer(inner)))


class TextClassifier(nn.Module):
    """Token ids to logits: embeddings, layers, the mean over real tokens, one linear map."""

    def __init__(
        self,
        *,
        classes: int,
        vocabulary: int,
        width: int = 384,
        heads: int = 12,
        inner: int = 1536,
        layers: int = 2,
        positions: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(width, heads, inner, dropout) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """States of every token [b, t, width]."""
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.dropout(self.norm(self.words(input_ids) + self.positions(place)))
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        for layer in self.layers:
            x = layer(x, bias)
        return x

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [b, classes].

        Parameters
        ----------
        input_ids : int64 [b, t]
        attention_mask : int64 [b, t]
            1 for a token, 0 for padding; at least one token a row.
        """
        x = self.encode(input_ids, attention_mask)
        real = attention_mask[:, :, None].to(x.dtype)
        mean = (x * real).sum(dim=1) / real.sum(dim=1)
        logits: Tensor = self.head(self.dropout(mean))
        return logits


def from_minilm(folder: Path, *, classes: int, layers: int = 2) -> TextClassifier:
    """The first ``layers`` of a BERT checkpoint (``config.json``, ``model.safetensors``), new head.

    BERT adds a vector for the sentence a token belongs to. There is one sentence here, so the
    vector is added to the positions once, instead of to every token of every request.

    Raises
    ------
    InputError
        The checkpoint has fewer layers.
    """
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    has = config["num_hidden_layers"]
    require(1 <= layers <= has, "layers", layers, f"must be from 1 to {has}, the checkpoint's")
    model = TextClassifier(
        classes=classes,
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        layers=layers,
        positions=config["max_position_embeddings"],
    )
    given = load_file(folder / "model.safetensors")
    state = {
        "words.weight": given["embeddings.word_embeddings.weight"],
        "positions.weight": given["embeddings.position_embeddings.weight"]
        + given["embeddings.token_type_embeddings.weight"][0],
    }
    names = {"norm": "embeddings.LayerNorm"}
    for i in range(layers):
        ours, theirs = f"layers.{i}", f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            names[f"{ours}.attention.{name}"] = f"{theirs}.attention.self.{name}"
        names[f"{ours}.attention.output"] = f"{theirs}.attention.output.dense"
        names[f"{ours}.attention_norm"] = f"{theirs}.attention.output.LayerNorm"
        names[f"{ours}.inner"] = f"{theirs}.intermediate.dense"
        names[f"{ours}.outer"] = f"{theirs}.output.dense"
        names[f"{ours}.norm"] = f"{theirs}.output.LayerNorm"
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            state[f"{ours}.{kind}"] = given[f"{theirs}.{kind}"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or not all(name.startswith("head.") for name in missing):
        raise RuntimeError(f"the checkpoint does not fit: missing {missing}, extra {unexpected}")
    return model.eval()
