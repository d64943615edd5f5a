"""Biased matrix factorisation: against the known answer, and where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest

from capstone.matrix_factorisation import fit
from common.errors import InputError


def ratings(seed: int = 0, users: int = 60, items: int = 50):  # type: ignore[no-untyped-def]
    """Pairs, and what a rank-2 model with biases gives them."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(0, 0.7, (users, 2)), rng.normal(0, 0.7, (items + 1, 2))
    bias, item_bias = rng.normal(0, 0.5, users), rng.normal(0, 0.5, items + 1)
    user, item = (grid.ravel() for grid in np.mgrid[0:users, 1 : items + 1])
    truth = 3.5 + bias[user] + item_bias[item] + (p[user] * q[item]).sum(axis=1)
    return user, item, truth, rng.random(len(user)) < 0.8


def test_it_finds_a_model_of_its_own_kind() -> None:
    user, item, truth, train = ratings()
    factors = fit(
        user[train], item[train], truth[train], n_users=60, n_items=50,
        rank=2, regularisation=0.02, bias_regularisation=0.1, sweeps=30,
    )  # fmt: skip
    error = factors.predict(user[~train], item[~train]) - truth[~train]
    assert np.sqrt((error**2).mean()) < 0.2 * truth.std()


def test_a_bias_is_shrunk_towards_nothing_by_few_ratings() -> None:
    """One rating of 5 is not yet somebody who always gives 5."""
    user = np.array([0] + [1] * 20)
    item = np.concatenate([[1], np.arange(1, 21)])
    factors = fit(user, item, np.where(user == 0, 5, 3), n_users=2, n_items=20, rank=1)
    assert 0 < factors.users[0, -1] < 0.5 * (5 - factors.mean)


def test_who_has_no_rating_gets_the_mean() -> None:
    factors = fit(np.array([0, 0]), np.array([1, 2]), np.array([2, 5]), n_users=3, n_items=9)
    assert factors.predict(np.array([2]), np.array([7]))[0] == pytest.approx(3.5)


def test_regularisation_must_be_positive() -> None:
    with pytest.raises(InputError, match="regularisation = 0"):
        fit(np.array([0]), np.array([1]), np.array([5]), n_users=1, n_items=1, regularisation=0.0)
