"""Biased matrix factorisation by alternating least squares: what rating would a user give?

``r_ui ~ mu + b_u + c_i + p_u . q_i``. With the items fixed, every user's ``(p_u, b_u)`` is a ridge
regression on the items that she rated, and the other way round (Koren, Bell & Volinsky 2009, IEEE
Computer 42(8), equation 5). It is the linear part that a sequence model of 100,000 ratings lacks:
who rates high, what is liked by everybody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capstone.data import Ints
from common.errors import require

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Factors:
    """A fitted factorisation.

    Attributes
    ----------
    mean
        Of the training ratings.
    users, items : [n_users, k + 1], [n_items + 1, k + 1]
        Factors, and the bias in the last column; zeros for who has no training rating.
    """

    mean: float
    users: Floats
    items: Floats

    def predict(self, user: Ints, item: Ints) -> Floats:
        """Expected ratings [n] of pairs; users count from 0."""
        p, q = self.users[user], self.items[item]
        dot = (p[:, :-1] * q[:, :-1]).sum(axis=1)
        return np.asarray(self.mean + p[:, -1] + q[:, -1] + dot)


def fit(
    user: Ints,
    item: Ints,
    rating: Ints,
    *,
    n_users: int,
    n_items: int,
    rank: int = 16,
    regularisation: float = 1.3,
    bias_regularisation: float = 8.0,
    sweeps: int = 12,
    seed: int = 0,
) -> Factors:
    """Alternate between users and items.

    Parameters
    ----------
    user, item, rating : [n]
        Users from 0, items from 1.
    regularisation
        Of the factors, times the square root of the number of ratings in the row: rows with many
        ratings need less of it for each, but not as little as a constant would give.
    bias_regularisation
        Of the biases, the same for every row.
    """
    require(rank >= 1, "rank", rank, "must be >= 1")
    for name, value in (
        ("regularisation", regularisation), ("bias_regularisation", bias_regularisation)
    ):  # fmt: skip
        require(value > 0, name, value, "must be > 0")
    rng = np.random.default_rng(seed)
    mean = float(rating.mean())
    centred = np.asarray(rating - mean, dtype=np.float64)
    users = rng.normal(0, 0.1, (n_users, rank + 1))
    items = rng.normal(0, 0.1, (n_items + 1, rank + 1))
    users[:, -1] = items[:, -1] = 0
    rows_of = {name: _rows(ids, n) for name, ids, n in
               (("user", user, n_users), ("item", item, n_items + 1))}  # fmt: skip
    for ids, table in ((user, users), (item, items)):
        table[np.bincount(ids, minlength=len(table)) == 0] = 0
    for _ in range(sweeps):
        _solve(users, items, rows_of["user"], item, centred, regularisation, bias_regularisation)
        _solve(items, users, rows_of["item"], user, centred, regularisation, bias_regularisation)
    return Factors(mean, users, items)


def _rows(ids: Ints, n: int) -> list[Ints]:
    """Positions of each id, [n] arrays."""
    order = np.argsort(ids, kind="stable")
    return np.split(order, np.cumsum(np.bincount(ids, minlength=n))[:-1])


def _solve(
    table: Floats,
    other: Floats,
    rows_of: list[Ints],
    partner: Ints,
    centred: Floats,
    regularisation: float,
    bias_regularisation: float,
) -> None:
    """Ridge regression of every row of ``table``, in place."""
    rank = table.shape[1] - 1
    design = np.concatenate([other[:, :rank], np.ones((len(other), 1))], axis=1)
    for row, positions in enumerate(rows_of):
        if len(positions) == 0:
            continue
        near = partner[positions]
        x, y = design[near], centred[positions] - other[near, -1]
        penalty = np.full(rank + 1, regularisation * np.sqrt(len(positions)))
        penalty[-1] = bias_regularisation
        gram = x.T @ x
        gram[np.diag_indices_from(gram)] += penalty
        table[row] = np.linalg.solve(gram, x.T @ y)
