"""Real units for the experiments: MovieLens users, a metric, and what was known before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data import Dataset

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Users:
    """943 users. ``before`` and ``after`` are the mean ratings of each user's two halves in time.

    ``ids`` text [n]; ``before``, ``after`` and ``late`` (the last quarter alone) float [n].
    """

    ids: NDArray[np.str_]
    before: Floats
    after: Floats
    late: Floats


def split_in_time(dataset: Dataset) -> Users:
    """Each user's ratings in time order (ties in file order), cut in the middle.

    The second half plays the experiment's period, the first half what was measured before it.

    Parameters
    ----------
    dataset
        ``common.data.load("ml-100k")``; every user has at least 20 ratings.
    """
    table = dataset.table("interactions").sort_values("timestamp", kind="stable")
    groups = table.groupby("user_id")["rating"]
    share = groups.cumcount() / groups.transform("size")
    means = {
        name: table[part].groupby("user_id")["rating"].mean()
        for name, part in (
            ("before", share < 0.5),
            ("after", share >= 0.5),
            ("late", share >= 0.75),
        )
    }
    ids = means["before"].index.astype(str).to_numpy().astype(np.str_)
    return Users(ids, **{name: mean.to_numpy(dtype=float) for name, mean in means.items()})


def crossed(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Units by arm of two experiments, int64 [2, 2]: equal cells mean independent assignments."""
    table = np.zeros((2, 2), dtype=np.int64)
    np.add.at(table, (first, second), 1)
    return table
