"""The ranker on the split of the published figures: random 8:1:1, label rating >= 4.

A random split mixes past and future, so its AUC says how well ratings are explained, not how well
tomorrow's are predicted; it is here because published figures are on it (logistic regression:
AUC .7765, log loss .562). The architecture is the feed ranker's, with what this split needs: the
history is a *set*, all other training interactions of the user, so it is read in a random order,
anew every epoch; and a user has a bias, since here every test user has training rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from capstone.counter_hash import hash64
from capstone.data import LIKE_FROM, Feed, Ints
from capstone.models import Attention, Ranker
from capstone.value import REACTIONS

TRAIN, VALIDATION, TEST = 0, 1, 2
PURPOSE = 811
SPLIT_SEED = 0
RANDOM_SPLIT_SHA256 = "650b66e59ac0cb65682619e4391deb771895b982ce7ee048a5e81baf2a293eb6"
PUBLISHED_LR_AUC, PUBLISHED_LR_LOG_LOSS = 0.7765, 0.562


@dataclass(frozen=True)
class RandomSplit:
    """All interactions, in the order of (user, item), and the part each belongs to.

    Attributes
    ----------
    user : [n]
        Row of the user, from 0.
    item, rating : [n]
    part : [n]
        :data:`TRAIN`, :data:`VALIDATION` or :data:`TEST`: 8, 1 and 1 tenths.
    """

    user: Ints
    item: Ints
    rating: Ints
    part: NDArray[np.int8]

    @property
    def liked(self) -> NDArray[np.bool_]:
        return self.rating >= LIKE_FROM

    def rows(self, part: int) -> Ints:
        """Row numbers of a part."""
        return np.flatnonzero(self.part == part)

    @property
    def sha256(self) -> str:
        """Hash of rows (user, item, rating, part) as int64."""
        columns = np.column_stack([self.user, self.item, self.rating, self.part]).astype(np.int64)
        return hashlib.sha256(columns.tobytes()).hexdigest()


def split_randomly(feed: Feed, *, seed: int = SPLIT_SEED) -> RandomSplit:
    """Exactly 8:1:1 of the interactions, by the order of a hash of (seed, user, item).

    It depends on no order of rows and no generator's state, so any tool can make it again.
    """
    user = np.repeat(np.arange(feed.n_users), [len(s.items) for s in feed.sequences])
    item = np.concatenate([sequence.items for sequence in feed.sequences])
    rating = np.concatenate([sequence.ratings for sequence in feed.sequences])
    order = np.lexsort((item, user))
    user, item, rating = user[order], item[order], rating[order]
    place = np.argsort(np.argsort(hash64(seed, PURPOSE, user * (feed.n_items + 1) + item)))
    tenth = place * 10 // len(user)
    part = np.where(tenth < 8, TRAIN, np.where(tenth == 8, VALIDATION, TEST)).astype(np.int8)
    return RandomSplit(user, item, rating, part)


class SetRanker(nn.Module):
    """The feed's :class:`~capstone.models.Ranker` and a bias of each user for each reaction."""

    def __init__(
        self,
        genres: Tensor,
        n_users: int,
        width: int,
        max_length: int,
        *,
        layers: int,
        dropout: float,
        attention: Attention = "softmax",
    ) -> None:
        super().__init__()
        self.ranker = Ranker(
            genres, width, max_length, layers=layers, dropout=dropout, attention=attention
        )
        self.user_bias = nn.Embedding(n_users, len(REACTIONS))
        nn.init.zeros_(self.user_bias.weight)

    def forward(self, users: Tensor, history: Tensor, ratings: Tensor, items: Tensor) -> Tensor:
        """Reaction logits [B, L, R] of ``items`` [B, L], each after the history up to it.

        users : [B]; history, ratings : [B, L].
        """
        table = self.ranker.table()
        states = self.ranker.states(history, ratings, table)
        logits = self.ranker.reaction_logits(states, items, table)
        return logits + self.user_bias(users)[:, None]

    def after(self, users: Tensor, history: Tensor, ratings: Tensor, items: Tensor) -> Tensor:
        """Reaction logits [B, C, R] of candidates ``items`` [B, C] after the whole history."""
        table = self.ranker.table()
        last = self.ranker.states(history, ratings, table)[:, -1:]
        return self.ranker.reaction_logits(last, items, table) + self.user_bias(users)[:, None]
