"""The ranker's AUC on the random 8:1:1 split: deep part, wide part, and what they give together.

The deep part is the feed's ranker, reading a user's training ratings as a set
(:class:`capstone.random_split.SetRanker`). The wide part is a biased matrix factorisation, averaged
over a few ranks. A logistic regression on the validation rows weighs the two (Cheng et al. 2016,
Wide & Deep, arXiv 1606.07792); the test rows are looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from capstone import matrix_factorisation, measure
from capstone.baselines import logistic_regression_on
from capstone.calibration import log_loss
from capstone.data import Feed, Ints
from capstone.random_split import (
    TEST,
    TRAIN,
    VALIDATION,
    RandomSplit,
    SetRanker,
    split_randomly,
)
from capstone.ranking_loss import reaction_labels
from labs.lab1_fsdp_advanced.training import cosine_schedule

Floats = NDArray[np.float64]
RANKS = ((12, 1.2), (16, 1.3), (24, 1.6), (40, 1.6))
"""Rank and regularisation of the averaged factorisations."""
PREDICTED = 64
"""Users that are predicted in one call."""


@dataclass(frozen=True)
class SetRecipe:
    """How the deep part is trained."""

    width: int = 32
    max_length: int = 100
    dropout: float = 0.2
    batch_size: int = 32
    learning_rate: float = 1e-2
    next_item: float = 0.3
    """Weight of the auxiliary task: which other item of the user comes next in the random order."""
    next_share: float = 0.25
    """Share of the positions that the auxiliary task looks at."""
    draws: int = 4
    """Random orders of the history that a prediction averages."""


@dataclass(frozen=True)
class Scored:
    """AUC with its interval over users, and log loss, of one model on the test rows."""

    auc: float
    auc_ci95: tuple[float, float]
    log_loss: float
    validation_auc: float


@dataclass(frozen=True)
class RandomSplitStudy:
    """The models side by side; ``blend`` holds intercept and the weights of the two logits."""

    logistic_regression: Scored
    wide: Scored
    deep: Scored
    ranker: Scored
    blend: tuple[float, float, float]
    n_test: int
    sha256: str


def study_random_split(
    feed: Feed,
    *,
    epochs: int = 40,
    recipe: SetRecipe | None = None,
    ranks: Sequence[tuple[int, float]] = RANKS,
    n_boot: int = 1000,
    seed: int = 0,
    on_epoch: Callable[[int], None] | None = None,
) -> RandomSplitStudy:
    """Fit every model on the training rows, weigh on validation, measure on test."""
    from sklearn.linear_model import LogisticRegression

    recipe = recipe or SetRecipe()
    split = split_randomly(feed)
    validation, test = split.rows(VALIDATION), split.rows(TEST)
    model = fit_set_ranker(feed, split, recipe, epochs=epochs, seed=seed, on_epoch=on_epoch)
    deep = {
        name: set_logits(model, split, rows, recipe, seed=seed)
        for name, rows in (("validation", validation), ("test", test))
    }
    ratings = expected_ratings(feed, split, ranks=ranks, seed=seed)
    wide = {"validation": ratings[validation], "test": ratings[test]}
    features = {name: np.column_stack([wide[name], deep[name]]) for name in deep}
    blend = LogisticRegression(C=1e6).fit(features["validation"], split.liked[validation])
    joint = {name: blend.predict_proba(each)[:, 1] for name, each in features.items()}
    alone = LogisticRegression(C=1e6).fit(
        wide["validation"][:, None], split.liked[validation]
    )  # calibrates a rating to a probability
    lr = logistic_regression_on(feed, split)

    def scored(at: Floats, before: Floats) -> Scored:
        liked, users = split.liked[test], split.user[test]
        return Scored(
            measure.auc(liked, at),
            measure.auc_interval(liked, at, users, n_boot=n_boot, seed=seed),
            log_loss(at, liked),
            measure.auc(split.liked[validation], before),
        )

    return RandomSplitStudy(
        logistic_regression=scored(lr[test], lr[validation]),
        wide=scored(alone.predict_proba(wide["test"][:, None])[:, 1], wide["validation"]),
        deep=scored(_sigmoid(deep["test"]), deep["validation"]),
        ranker=scored(joint["test"], joint["validation"]),
        blend=(float(blend.intercept_[0]), float(blend.coef_[0, 0]), float(blend.coef_[0, 1])),
        n_test=len(test),
        sha256=split.sha256,
    )


def expected_ratings(
    feed: Feed, split: RandomSplit, *, ranks: Sequence[tuple[int, float]], seed: int
) -> Floats:
    """The mean of the factorisations' expected ratings, for every row of the split."""
    rows = split.rows(TRAIN)
    total = np.zeros(len(split.user))
    for rank, regularisation in ranks:
        factors = matrix_factorisation.fit(
            split.user[rows], split.item[rows], split.rating[rows],
            n_users=feed.n_users, n_items=feed.n_items,
            rank=rank, regularisation=regularisation, seed=seed,
        )  # fmt: skip
        total += factors.predict(split.user, split.item)
    return total / len(ranks)


def fit_set_ranker(
    feed: Feed,
    split: RandomSplit,
    recipe: SetRecipe,
    *,
    epochs: int,
    seed: int,
    on_epoch: Callable[[int], None] | None = None,
) -> SetRanker:
    """Train the deep part on the training rows: each user's ratings in a new order every epoch."""
    torch.manual_seed(seed)
    model = SetRanker(
        torch.from_numpy(feed.genres), feed.n_users, recipe.width, recipe.max_length,
        layers=1, dropout=recipe.dropout,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    own = _own_rows(split)
    users = np.array(sorted(own))
    steps = epochs * -(-len(users) // recipe.batch_size)
    schedule = cosine_schedule(optimizer, steps)
    model.train()
    for epoch in range(epochs):
        rng = np.random.default_rng((seed, epoch))
        shuffled = rng.permutation(users)
        for start in range(0, len(users), recipe.batch_size):
            chosen = shuffled[start : start + recipe.batch_size]
            orders = [rng.permutation(own[int(user)]) for user in chosen]
            loss = _loss(model, chosen, _batch(split, orders, recipe.max_length), recipe)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if on_epoch:
            on_epoch(epoch + 1)
    return model.eval()


@torch.no_grad()
def set_logits(
    model: SetRanker, split: RandomSplit, rows: Ints, recipe: SetRecipe, *, seed: int
) -> Floats:
    """Logits of P(rating >= 4) of the rows [n], from the users' training ratings."""
    rng = np.random.default_rng((seed, len(rows)))
    own, nobody = _own_rows(split), np.zeros(0, np.int64)
    users, first = np.unique(split.user[rows], return_index=True)
    assert np.array_equal(np.sort(first), first), "rows must be in the order of users"
    places = np.split(np.arange(len(rows)), first[1:])
    total = np.zeros(len(rows))
    for start in [*range(0, len(users), PREDICTED)] * recipe.draws:
        some = users[start : start + PREDICTED]
        asked = places[start : start + PREDICTED]
        history = np.zeros((2, len(some), recipe.max_length), dtype=np.int64)
        items = np.zeros((len(some), max(map(len, asked))), dtype=np.int64)
        for row, (user, where) in enumerate(zip(some, asked, strict=True)):
            order = rng.permutation(own.get(int(user), nobody))[: recipe.max_length]
            if len(order):
                history[0, row, -len(order) :] = split.item[order]
                history[1, row, -len(order) :] = split.rating[order]
            items[row, : len(where)] = split.item[rows[where]]
        inputs = (some, history[0], history[1], items)
        logits = model.after(*map(torch.from_numpy, inputs))[..., 0].numpy()
        for row, where in enumerate(asked):
            total[where] += logits[row, : len(where)]
    return np.asarray(total / recipe.draws)


def _loss(
    model: SetRanker, users: Ints, batch: tuple[torch.Tensor, ...], recipe: SetRecipe
) -> torch.Tensor:
    history, ratings, nexts, next_ratings = batch
    real = nexts > 0
    ranker, table = model.ranker, model.ranker.table()
    states = ranker.states(history, ratings, table)
    logits = ranker.reaction_logits(states, nexts, table)
    logits = logits + model.user_bias(torch.from_numpy(users))[:, None]
    loss = F.binary_cross_entropy_with_logits(
        logits[real], reaction_labels(next_ratings[real]), reduction="none"
    ).sum(-1)
    looked_at = real & (torch.rand(real.shape) < recipe.next_share)
    engage = ranker.engage_logits(states[looked_at], table)
    return loss.mean() + recipe.next_item * F.cross_entropy(engage, nexts[looked_at])


def _batch(split: RandomSplit, orders: list[Ints], length: int) -> tuple[torch.Tensor, ...]:
    """History, its ratings, what is asked after each, and its rating: each [B, L]."""
    columns = np.zeros((4, len(orders), length), dtype=np.int64)
    for row, order in enumerate(orders):
        kept = order[-(length + 1) :]
        n = len(kept) - 1
        if n > 0:
            items, ratings = split.item[kept], split.rating[kept]
            for column, values in enumerate((items[:-1], ratings[:-1], items[1:], ratings[1:])):
                columns[column, row, -n:] = values
    return tuple(torch.from_numpy(column) for column in columns)


def _own_rows(split: RandomSplit) -> dict[int, Ints]:
    rows = split.rows(TRAIN)
    cuts = np.flatnonzero(np.diff(split.user[rows])) + 1
    return {int(split.user[each[0]]): each for each in np.split(rows, cuts)}


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))
