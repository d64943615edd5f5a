"""Two towers: a history and an item become vectors whose dot product is the retrieval score.

The user tower is the sequence encoder; the item tower adds genres to the item's embedding, so an
item that few have seen starts near its kind. They meet only in the dot product, which is what lets
an index hold one of them. Which softmax trains them is the comparison of this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from capstone.baselines import popularity
from capstone.data import Feed, histories
from capstone.models import SequenceEncoder
from capstone.sampled_softmax import in_batch_loss, log_frequencies

Floats = NDArray[np.float32]
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(queries [T, D], item vectors [n_items + 1, D], targets [T]) -> summed loss."""
OBJECTIVES = ("full softmax", "in-batch, logQ", "in-batch, no correction")


class TwoTower(nn.Module):
    """User tower: :class:`SequenceEncoder`. Item tower: its embedding plus genre features."""

    def __init__(
        self, genres: Tensor, width: int, max_length: int, *, layers: int, dropout: float
    ) -> None:
        """genres : [n_items + 1, n_genres] multi-hot, row 0 all zero."""
        super().__init__()
        self.user = SequenceEncoder(
            len(genres) - 1, width, max_length, layers=layers, dropout=dropout
        )
        self.register_buffer("genres", genres.float())
        self.genres: Tensor
        self.genre = nn.Linear(genres.shape[1], width, bias=False)
        nn.init.normal_(self.genre.weight, std=0.02)

    def items(self) -> Tensor:
        """The item tower: [n_items + 1, D]; row 0 is padding."""
        return self.user.items.weight + self.genre(self.genres)

    def forward(self, history: Tensor) -> Tensor:
        """The user tower after each item: [B, L] -> [B, L, D]."""
        return self.user.encode(history)


@dataclass(frozen=True)
class Recipe:
    """What :func:`fit` trains: small enough to train six of them while one watches."""

    width: int = 48
    layers: int = 1
    max_length: int = 30
    dropout: float = 0.2
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 8e-3
    group: int = 512
    """Positions whose targets are each other's negatives."""


SMOKE = Recipe(width=32, max_length=20, epochs=3)


def full_softmax(queries: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
    """Every item is a negative of every query."""
    logits = queries @ vectors[1:].T
    return F.cross_entropy(logits, targets - 1, reduction="sum")


def in_batch(log_q: Tensor, group: int) -> Objective:
    """The targets of ``group`` random positions are each other's negatives.

    Parameters
    ----------
    log_q : [n_items + 1]
        Zeros train without the correction.
    """

    def loss(queries: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
        total = queries.new_zeros(())
        # Neighbours in a history would be negatives of their own user, so the order is random.
        for rows in torch.randperm(len(targets)).split(group):
            chosen = targets[rows]
            total = total + in_batch_loss(queries[rows], vectors[chosen], chosen, log_q[chosen])
        return total

    return loss


def objective(name: str, feed: Feed, group: int) -> Objective:
    """One of :data:`OBJECTIVES`, with Q counted on the training interactions."""
    if name == "full softmax":
        return full_softmax
    log_q = torch.from_numpy(log_frequencies(popularity(feed.matrix(feed.train))))
    return in_batch(log_q if name == "in-batch, logQ" else torch.zeros_like(log_q), group)


def fit(feed: Feed, name: str, recipe: Recipe, *, seed: int) -> TwoTower:
    """Train the two towers on the training interactions, in this process.

    The encoder that is served is trained by ``training.py`` over ranks; this trains a small one
    in seconds, to compare objectives.
    """
    from capstone.training import make_batch
    from labs.lab1_fsdp_advanced.training import cosine_schedule

    torch.manual_seed(seed)
    model = TwoTower(
        torch.from_numpy(feed.genres), recipe.width, recipe.max_length,
        layers=recipe.layers, dropout=recipe.dropout,
    )  # fmt: skip
    loss_of = objective(name, feed, recipe.group)
    steps = recipe.epochs * -(-feed.n_users // recipe.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = cosine_schedule(optimizer, steps)
    model.train()
    for step in range(steps):
        batch = make_batch(
            feed.train, step, batch_size=recipe.batch_size, max_length=recipe.max_length,
            seed=seed, rank=0, world=1, device=torch.device("cpu"),
        )  # fmt: skip
        real = batch.nexts > 0
        queries = model(batch.history)[real]
        loss = loss_of(queries, model.items(), batch.nexts[real]) / len(queries)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@dataclass(frozen=True)
class ObjectiveResult:
    """One objective on the test item, the means over seeds.

    Attributes
    ----------
    recall
        Of the test item among the ``k`` best.
    recall_by_seed : one a seed
    recall_by_decile : 10 values, rarest items first
        Of the users whose test item is in that tenth.
    recommended_by_decile : 10 values that add up to 1
        Where the ``k`` best items of all users lie.
    mean_popularity
        Training interactions of a recommended item.
    """

    name: str
    recall: float
    recall_by_seed: tuple[float, ...]
    recall_by_decile: tuple[float, ...]
    recommended_by_decile: tuple[float, ...]
    mean_popularity: float


@dataclass(frozen=True)
class LogQStudy:
    """The objectives side by side; a tenth of the training interactions is in each decile."""

    k: int
    users_by_decile: tuple[int, ...]
    objectives: tuple[ObjectiveResult, ...]

    def of(self, name: str) -> ObjectiveResult:
        return next(each for each in self.objectives if each.name == name)

    def ratio(self, name: str) -> float:
        """Recall of an objective over that of the full softmax."""
        return self.of(name).recall / self.of("full softmax").recall


def study_log_q(feed: Feed, recipe: Recipe, *, n_seeds: int, seed: int, k: int = 50) -> LogQStudy:
    """Full softmax, in-batch with logQ and in-batch without, over ``n_seeds`` trainings each."""
    counts = popularity(feed.matrix(feed.train))
    decile = deciles(counts)
    results = []
    for name in OBJECTIVES:
        found = []
        for number in range(seed, seed + n_seeds):
            masked = scores(fit(feed, name, recipe, seed=number), feed)
            found.append(np.argpartition(-masked, k - 1, axis=1)[:, :k])
        top = np.stack(found)
        hits = (top == feed.test_items[None, :, None]).any(axis=2).astype(float)
        results.append(
            ObjectiveResult(
                name,
                float(hits.mean()),
                tuple(hits.mean(axis=1).tolist()),
                tuple(float(hits[:, decile[feed.test_items] == d].mean()) for d in range(10)),
                tuple((np.bincount(decile[top.ravel()], minlength=10) / top.size).tolist()),
                float(counts[top].mean()),
            )
        )
    users = np.bincount(decile[feed.test_items], minlength=10)
    return LogQStudy(k, tuple(users.tolist()), tuple(results))


def deciles(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Decile of each item, 0 the rarest: each decile has a tenth of all interactions.

    Deciles of items instead would put nearly every test item into the last one.
    """
    order = np.argsort(counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order] / 2
    decile = np.empty(len(counts), dtype=np.int64)
    decile[order] = np.minimum(9, 10 * before / counts.sum()).astype(np.int64)
    return decile


@torch.no_grad()
def scores(model: TwoTower, feed: Feed) -> Floats:
    """Scores at test time, what was seen masked with -inf: [n_users, n_items + 1]."""
    history, _ = histories(feed.test_history, model.user.max_length)
    queries = model(torch.from_numpy(history))[:, -1]
    return np.where(feed.seen, -np.inf, (queries @ model.items().T).numpy())
