"""A transformer over the columns of a table, whose attention weights can be read and replaced.

Every column becomes a token, a CLS token looks at all of them, and its last state gives the logit.
The weights with which it looks are non-negative and sum to 1, which makes them look like shares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError, require
from labs.lab3_fairness.attribution import Matrix, Predict, Vector

BATCH = 256  # rows evaluated at once


class ColumnTokens(nn.Module):
    """[b, d] coded rows to [b, d + 1, width] tokens, CLS first.

    Numbers are standardised and multiply a vector of their own, categories look one up; both add
    a vector of the column.

    References
    ----------
    Gorishniy et al.: Revisiting Deep Learning Models for Tabular Data, NeurIPS 2021, section 3.3.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, sizes: Sequence[int], mean: Vector, scale: Vector, width: int) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.numbers = [j for j, size in enumerate(sizes) if size == 0]
        self.texts = [j for j, size in enumerate(sizes) if size > 0]
        self.slope = nn.Parameter(torch.randn(len(self.numbers), width) * width**-0.5)
        self.tables = nn.ModuleList(
            nn.Embedding(sizes[j], width, _weight=torch.randn(sizes[j], width) * width**-0.5)
            for j in self.texts
        )
        self.bias = nn.Parameter(torch.randn(len(sizes), width) * width**-0.5)
        self.cls = nn.Parameter(torch.randn(width) * width**-0.5)

    def forward(self, rows: Tensor) -> Tensor:
        scaled = ((rows - self.mean) / self.scale).float()
        parts: list[Tensor] = [torch.empty(0)] * len(self.sizes)
        for place, j in enumerate(self.numbers):
            parts[j] = scaled[:, j, None] * self.slope[place]
        for place, j in enumerate(self.texts):
            parts[j] = self.tables[place](rows[:, j].long())
        tokens = torch.stack(parts, dim=1) + self.bias
        return torch.cat([self.cls.expand(len(rows), 1, -1), tokens], dim=1)


class Layer(nn.Module):
    """Attention and a feed-forward network, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.network = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def weights(self, tokens: Tensor) -> Tensor:
        """Attention [b, heads, t, t]: softmax of query times key over the root of the head's size.

        References
        ----------
        Vaswani et al.: Attention Is All You Need, 2017, equation 1.
        """
        x = self.before_attention(tokens)
        query, key = self._split(self.query(x)), self._split(self.key(x))
        return torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5, dim=-1)

    def values(self, tokens: Tensor) -> Tensor:
        """What each token hands over, [b, heads, t, size of a head]."""
        return self._split(self.value(self.before_attention(tokens)))

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        mixed = (weights @ self.values(tokens)).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(mixed)
        updated: Tensor = tokens + self.network(self.before_network(tokens))
        return updated

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class ColumnTransformer(nn.Module):
    """Logit of a row from its columns, by attention.

    Parameters
    ----------
    sizes
        For each column the number of categories, 0 for a number.
    mean, scale : arrays of shape [d]
        Of the numbers; ignored for categories.
    width, heads, depth
        Of the tokens, the attention, the stack.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        mean: Vector,
        scale: Vector,
        *,
        width: int = 32,
        heads: int = 4,
        depth: int = 2,
    ) -> None:
        super().__init__()
        require(width % heads == 0, "width", width, f"must be a multiple of heads = {heads}")
        require(depth >= 1, "depth", depth, "must be >= 1", "try 2")
        self.tokens = ColumnTokens(sizes, mean, scale, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """[b, d] coded rows to [b] logits."""
        return self.from_tokens(self.tokens(rows))

    def stack(self) -> list[Layer]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """[b, d + 1, width] tokens to [b] logits."""
        return self.trace(tokens).logits

    def trace(self, tokens: Tensor, last_weights: Tensor | None = None) -> Trace:
        """The logits and how they came about; ``last_weights`` replace the last layer's own."""
        found: list[Tensor] = []
        states = tokens
        for number, layer in enumerate(self.stack()):
            tokens = states
            last = number == len(self.layers) - 1
            weights = last_weights if last and last_weights is not None else layer.weights(tokens)
            found.append(weights)
            states = layer(tokens, weights)
        logits: Tensor = self.head(torch.relu(self.norm(states[:, 0]))).squeeze(1)
        return Trace(logits, tuple(found), tokens)


@dataclass(frozen=True)
class Trace:
    """Logits [b], attention of each layer [b, heads, t, t], tokens that the last layer saw."""

    logits: Tensor
    attention: tuple[Tensor, ...]
    last_input: Tensor


@dataclass(frozen=True)
class Training:
    """How the transformer is fitted: Adam, shuffled batches, one-cycle learning rate."""

    epochs: int = 3
    batch: int = 512
    rate: float = 4e-3
    decay: float = 1e-4
    width: int = 32
    heads: int = 4
    depth: int = 2
    device: str = "cpu"

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", self.epochs, "must be >= 1", "try 3")
        require(self.batch >= 2, "batch", self.batch, "must be >= 2", "try 512")


def fit_transformer(
    rows: Matrix,
    labels: NDArray[np.int64],
    sizes: Sequence[int],
    training: Training | None = None,
    *,
    penalty: Callable[[Trace], Tensor] | None = None,
    seed: int = 0,
) -> ColumnTransformer:
    """Train on coded rows.

    Parameters
    ----------
    rows : array of shape [n, d]
        As from ``ColumnCodes.encode``.
    labels : array of shape [n]
        0 or 1.
    sizes
        For each column the number of categories, 0 for a number.
    penalty
        Added to the loss: what the attention is wanted to look like, see :func:`looks_away`.
    seed
        Of the weights and the batches. Runs on one device repeat.
    """
    chosen = training or Training()
    if rows.ndim != 2 or len(sizes) != rows.shape[1] or len(labels) != len(rows):
        raise InputError(
            f"rows {rows.shape}, labels {labels.shape}, {len(sizes)} sizes must be [n, d], [n], d"
        )
    if not np.isin(labels, (0, 1)).all() or np.ptp(labels) == 0:
        raise InputError(
            f"labels are {np.unique(labels)[:5]}; both 0 and 1 must occur, nothing else"
        )
    device = torch.device(chosen.device)
    spread = rows.std(axis=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ColumnTransformer(
            sizes,
            rows.mean(axis=0),
            np.where(spread > 0, spread, 1.0),
            width=chosen.width,
            heads=chosen.heads,
            depth=chosen.depth,
        ).to(device)
        x = torch.tensor(rows, dtype=torch.float32, device=device)
        y = torch.tensor(labels, dtype=torch.float32, device=device)
        steps = chosen.epochs * -(-len(x) // chosen.batch)
        optimizer = torch.optim.AdamW(model.parameters(), chosen.rate, weight_decay=chosen.decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, chosen.rate, total_steps=steps, pct_start=0.2
        )
        for _ in range(chosen.epochs):
            for part in torch.randperm(len(x)).to(device).split(chosen.batch):
                optimizer.zero_grad(set_to_none=True)
                trace = model.trace(model.tokens(x[part]))
                loss = nn.functional.binary_cross_entropy_with_logits(trace.logits, y[part])
                (loss if penalty is None else loss + penalty(trace)).backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def looks_away(column: int, strength: float = 1.0) -> Callable[[Trace], Tensor]:
    r"""A penalty on attention to one column, for CLS in every layer and every head.

    .. math:: -\lambda \sum_l E[\log(1 - A_l(\mathrm{CLS}, j))]

    References
    ----------
    Pruthi et al.: Learning to Deceive with Attention-Based Explanations, ACL 2020, section 3.
    """

    def penalty(trace: Trace) -> Tensor:
        seen = torch.stack([layer[:, :, 0, column + 1] for layer in trace.attention])
        return -strength * torch.log1p(-seen.clamp(max=1 - 1e-6)).mean(dim=(1, 2)).sum()

    return penalty


def as_predict(model: ColumnTransformer) -> Predict:
    """The logit as a function of coded rows [m, d]."""

    def predict(rows: Matrix) -> Vector:
        with torch.no_grad():
            parts = [model(part) for part in as_tensor(model, rows).split(BATCH)]
        return np.asarray(torch.cat(parts).cpu().numpy(), dtype=np.float64)

    return predict


def as_tensor(model: nn.Module, rows: Matrix) -> Tensor:
    """Rows in float32 on the model's device."""
    return torch.tensor(rows, dtype=torch.float32, device=next(model.parameters()).device)


def raw_attention(model: ColumnTransformer, rows: Matrix) -> Matrix:
    """The last layer's attention of CLS to each column, mean over heads, [n, d].

    CLS also looks at itself, so a row sums to less than 1.
    """
    with torch.no_grad():
        trace = model.trace(model.tokens(as_tensor(model, rows)))
    return _array(trace.attention[-1].mean(dim=1)[:, 0, 1:])


def attention_rollout(model: ColumnTransformer, rows: Matrix) -> Matrix:
    r"""Attention of all layers multiplied out, from CLS to the columns, [n, d].

    .. math:: R_l = \tfrac12 (A_l + 1)\, R_{l-1}, \qquad R_0 = 1

    A is the mean over heads. The identity stands for the residual connection, at equal weight.

    References
    ----------
    Abnar, Zuidema: Quantifying Attention Flow in Transformers, ACL 2020, section 3.
    """
    with torch.no_grad():
        trace = model.trace(model.tokens(as_tensor(model, rows)))
    size = trace.attention[0].shape[-1]
    identity = torch.eye(size, device=trace.logits.device)
    rollout = identity.expand(len(rows), size, size)
    for attention in trace.attention:
        rollout = (attention.mean(dim=1) + identity) / 2 @ rollout
    return _array(rollout[:, 0, 1:])


def value_weighted_attention(model: ColumnTransformer, rows: Matrix) -> Matrix:
    """Length of what each column hands to CLS in the last layer: |sum over heads of a W v|, [n, d].

    A large weight on a vector of length 0 hands over nothing.

    References
    ----------
    Kobayashi et al.: Attention is Not Only a Weight, EMNLP 2020.
    """
    with torch.no_grad():
        trace = model.trace(model.tokens(as_tensor(model, rows)))
        layer = model.stack()[-1]
        handed = trace.attention[-1][:, :, 0, :, None] * layer.values(trace.last_input)
        moved = handed.transpose(1, 2).flatten(2) @ layer.out.weight.T
    return _array(moved.norm(dim=-1)[:, 1:])


def gradient_times_token(
    model: ColumnTransformer, rows: Matrix, background: Matrix | None = None
) -> Matrix:
    """Gradient of the logit at each column's token times the token, summed over width, [n, d].

    With a background, times the difference to its mean token: a column's vector that all rows
    share then gets no credit.
    """
    tokens = model.tokens(as_tensor(model, rows)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.from_tokens(tokens).sum(), tokens)
    start = torch.zeros_like(tokens[0])
    if background is not None:
        start = model.tokens(as_tensor(model, background)).detach().mean(dim=0)
    return _array((slope * (tokens.detach() - start)).sum(dim=-1)[:, 1:])


def integrated_gradients(
    model: ColumnTransformer, rows: Matrix, background: Matrix, *, n_steps: int = 32
) -> Matrix:
    r"""Gradients summed on the straight way from the background's mean tokens to the row's, [n, d].

    .. math:: \phi_j = (t_j - t'_j) \cdot \int_0^1 \partial_j f(t' + a (t - t'))\, da

    Midpoint rule. Credits sum to f(row) - f(mean tokens). The same as
    ``captum.attr.IntegratedGradients(model.from_tokens)`` with ``method="riemann_middle"``.

    References
    ----------
    Sundararajan, Taly, Yan: Axiomatic Attribution for Deep Networks, ICML 2017, equations 1 and 3.
    """
    require(n_steps >= 1, "n_steps", n_steps, "must be >= 1", "try 32")
    with torch.no_grad():
        tokens = model.tokens(as_tensor(model, rows))
        start = model.tokens(as_tensor(model, background)).mean(dim=0)
    total = torch.zeros_like(tokens)
    for step in range(n_steps):
        between = (start + (step + 0.5) / n_steps * (tokens - start)).requires_grad_()
        (slope,) = torch.autograd.grad(model.from_tokens(between).sum(), between)
        total += slope / n_steps
    return _array((total * (tokens - start)).sum(dim=-1)[:, 1:])


def _array(values: Tensor) -> Matrix:
    return np.asarray(values.detach().cpu().numpy(), dtype=np.float64)
