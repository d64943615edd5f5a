"""What the feed knows of its items besides the model: titles, genres, creators, age, visibility.

MovieLens names no makers, so the creators are **simulated**: each film belongs to one of
``N_CREATORS`` invented studios whose sizes follow Zipf's law, drawn from a fixed seed. Everything
that is measured by creator says "simulated creators".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from capstone.data import Feed

N_CREATORS = 120
CREATOR_SEED = 20_260_101
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Catalogue:
    """Items 1..n_items; row 0 of every array is padding.

    Attributes
    ----------
    titles : n_items + 1 strings
    genres : for each item its genre names
    creator : [n_items + 1]
        Number of the (simulated) creator, from 1; 0 for padding.
    first_seen : [n_items + 1]
        Unix time of the item's first interaction in the training data; freshness counts from it.
    visible : [n_items + 1]
        False where a policy hides the item from everybody (padding, withdrawn items).
    """

    titles: tuple[str, ...]
    genres: tuple[tuple[str, ...], ...]
    creator: Ints
    first_seen: Ints
    visible: NDArray[np.bool_]

    @property
    def n_items(self) -> int:
        return len(self.titles) - 1

    def creator_name(self, item: int) -> str:
        return f"Studio {self.creator[item]}" if item else ""

    def save(self, path: Path) -> None:
        """Write ``catalogue.npz`` (no pickle)."""
        np.savez_compressed(
            path,
            titles=np.array(self.titles),
            genres=np.array(["|".join(row) for row in self.genres]),
            creator=self.creator,
            first_seen=self.first_seen,
            visible=self.visible,
        )

    @classmethod
    def load(cls, path: Path) -> Catalogue:
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                titles=tuple(stored["titles"].tolist()),
                genres=tuple(
                    tuple(row.split("|")) if row else () for row in stored["genres"].tolist()
                ),
                creator=stored["creator"],
                first_seen=stored["first_seen"],
                visible=stored["visible"],
            )


def simulated_creators(n_items: int) -> Ints:
    """Creator of each item [n_items + 1], sizes by Zipf's law, from a fixed seed; 0 is padding."""
    rng = np.random.default_rng(CREATOR_SEED)
    share = 1 / np.arange(1, N_CREATORS + 1)
    drawn = rng.choice(np.arange(1, N_CREATORS + 1), n_items, p=share / share.sum())
    return np.concatenate([[0], drawn]).astype(np.int64)


def build_catalogue(feed: Feed, interactions) -> Catalogue:  # type: ignore[no-untyped-def]
    """The catalogue of MovieLens 100K.

    Parameters
    ----------
    interactions : DataFrame
        Columns ``item_id`` and ``timestamp``; an item that nobody has touched is first seen at the
        newest time, so it counts as fresh.
    """
    names = np.array(feed.genre_names)
    first = np.full(feed.n_items + 1, int(interactions["timestamp"].max()), dtype=np.int64)
    seen = interactions.groupby("item_id")["timestamp"].min()
    first[seen.index.to_numpy(np.int64)] = seen.to_numpy(np.int64)
    first[0] = 0
    visible = np.ones(feed.n_items + 1, dtype=bool)
    visible[0] = False
    return Catalogue(
        titles=("", *feed.items["title"].tolist()),
        genres=tuple(tuple(names[row > 0].tolist()) for row in feed.genres),
        creator=simulated_creators(feed.n_items),
        first_seen=first,
        visible=visible,
    )
