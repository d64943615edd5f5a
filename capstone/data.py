"""MovieLens 100K as the system sees it: one frozen leave-one-out split in time order.

75.8 % of the interactions share a timestamp within a user, so the order of ties decides what the
last item is, and an unstable sort nearly halves NDCG. Ties keep file order, and the hash of the
split is committed: a run on another split stops.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.data import Dataset
from common.errors import RunError

if TYPE_CHECKING:
    import pandas as pd

SPLIT_SHA256 = "fef4a2c17b785fa892304441cfe6a313d8db66ff6c4dbc67d3291e1e22cc8241"
LIKE_FROM = 4
"""A rating of at least this is a like: the label of the ranking set."""
AGE_EDGES = (0, 25, 35, 50, 200)
AGE_LABELS = ("under 25", "25-34", "35-49", "50 and over")
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sequence:
    """One user's interactions, oldest first: items [n] and ratings [n]."""

    items: Ints
    ratings: Ints

    def before(self, held_out: int) -> Sequence:
        """Without the newest ``held_out`` interactions."""
        end = len(self.items) - held_out
        return Sequence(self.items[:end], self.ratings[:end])


@dataclass(frozen=True)
class Feed:
    """Users (943, ids 1..943) and items (1,682, ids 1..1682; 0 is padding).

    For each user the newest interaction is the test item and the one before it the validation
    item; models are fitted on the rest. At test time the history includes the validation item.
    """

    sequences: tuple[Sequence, ...]
    users: pd.DataFrame
    items: pd.DataFrame
    genre_names: tuple[str, ...]
    genres: NDArray[np.float32]

    @property
    def n_users(self) -> int:
        return len(self.sequences)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @cached_property
    def train(self) -> tuple[Sequence, ...]:
        """What models are fitted on: everything but the newest two interactions."""
        return tuple(sequence.before(2) for sequence in self.sequences)

    @cached_property
    def test_history(self) -> tuple[Sequence, ...]:
        """What is known when the test item is asked for: everything but the newest."""
        return tuple(sequence.before(1) for sequence in self.sequences)

    @cached_property
    def test_items(self) -> Ints:
        return np.array([sequence.items[-1] for sequence in self.sequences])

    @cached_property
    def validation_items(self) -> Ints:
        """The item before the test item: what options are chosen on."""
        return np.array([sequence.items[-2] for sequence in self.sequences])

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """[n_users, n_items + 1]: what must not be recommended at test time, padding included."""
        seen = np.zeros((self.n_users, self.n_items + 1), dtype=bool)
        seen[:, 0] = True
        for user, sequence in enumerate(self.test_history):
            seen[user, sequence.items] = True
        return seen

    def matrix(self, sequences: tuple[Sequence, ...]) -> NDArray[np.float64]:
        """Binary user-item matrix [n_users, n_items + 1] of the given interactions."""
        matrix = np.zeros((self.n_users, self.n_items + 1))
        for user, sequence in enumerate(sequences):
            matrix[user, sequence.items] = 1
        return matrix


@dataclass(frozen=True)
class RankingSet:
    """Rated interactions with the label ``rating >= 4``, for the ranker's AUC.

    ``held_out`` says how many newer interactions of the user the row's history must not see.
    """

    user: Ints
    item: Ints
    liked: NDArray[np.bool_]
    held_out: Ints


def prepare(dataset: Dataset) -> Feed:
    """Build the split from the ``ml-100k`` dataset and check its committed hash.

    Raises
    ------
    RunError
        When the split is not the frozen one.
    """
    import pandas as pd  # the gateway, which has no tables, starts without it

    interactions = dataset.table("interactions")
    ordered = interactions.sort_values(["user_id", "timestamp"], kind="stable")
    digest = split_hash(ordered)
    if digest != SPLIT_SHA256:
        raise RunError(
            f"the split's sha256 is {digest[:16]}..., the frozen one is {SPLIT_SHA256[:16]}...; "
            "the interactions or their order changed, so no figure would be comparable"
        )
    sequences = tuple(
        Sequence(group["item_id"].to_numpy(np.int64), group["rating"].to_numpy(np.int64))
        for _, group in ordered.groupby("user_id", sort=True)
    )
    users = dataset.table("users").sort_values("user_id").reset_index(drop=True)
    users["age_group"] = pd.cut(users["age"], AGE_EDGES, right=False, labels=AGE_LABELS).astype(str)
    items = dataset.table("items").sort_values("item_id").reset_index(drop=True)
    tags = items["genres"].fillna("").str.split()
    names = tuple(sorted({genre for row in tags for genre in row}))
    genres = np.zeros((len(items) + 1, len(names)), dtype=np.float32)
    for item, row in zip(items["item_id"], tags, strict=True):
        genres[item, [names.index(genre) for genre in row]] = 1
    return Feed(sequences, users, items, names, genres)


def split_hash(ordered: pd.DataFrame) -> str:
    """sha256 of the interactions in split order: int64 rows (user, item, rating, timestamp)."""
    columns = ["user_id", "item_id", "rating", "timestamp"]
    return hashlib.sha256(ordered[columns].to_numpy(np.int64).tobytes()).hexdigest()


def ranking_set(feed: Feed) -> RankingSet:
    """The two held-out interactions of every user: 1,886 rows no model was fitted on."""
    rows = [
        (user, sequence.items[-held_out], sequence.ratings[-held_out] >= LIKE_FROM, held_out)
        for user, sequence in enumerate(feed.sequences)
        for held_out in (2, 1)
    ]
    user, item, liked, held_out = (np.array(column) for column in zip(*rows, strict=True))
    return RankingSet(user, item, liked, held_out)


def pad(values: Ints, length: int) -> Ints:
    """The newest ``length`` values, right-aligned behind zeros."""
    padded = np.zeros(length, dtype=np.int64)
    kept = values[-length:]
    if len(kept):
        padded[-len(kept) :] = kept
    return padded


def histories(sequences: tuple[Sequence, ...], length: int) -> tuple[Ints, Ints]:
    """Padded item and rating histories, each [n_users, length]."""
    return (
        np.stack([pad(sequence.items, length) for sequence in sequences]),
        np.stack([pad(sequence.ratings, length) for sequence in sequences]),
    )
