"""A/A tests on real users, and the real units themselves."""

from __future__ import annotations

import numpy as np
import pytest

from common.data import load
from labs.lab6_online_eval.calibration import (
    aa_p_values,
    share_below,
)
from labs.lab6_online_eval.users import Users, crossed, split_in_time


@pytest.fixture(scope="module")
def users() -> Users:
    return split_in_time(load("ml-100k"))


def test_every_user_has_a_before_and_an_after(users: Users) -> None:
    assert users.ids.shape == users.before.shape == users.after.shape == users.late.shape == (943,)
    assert np.isfinite(users.before).all()
    assert np.corrcoef(users.before, users.after)[0, 1] > 0.4


def test_the_halves_are_in_time_order_and_make_up_the_whole(users: Users) -> None:
    table = load("ml-100k").table("interactions")
    mine = table[table["user_id"] == 1].sort_values("timestamp", kind="stable")["rating"]
    row = users.ids.tolist().index("1")
    assert users.before[row] == pytest.approx(mine.iloc[:136].mean())
    assert users.after[row] == pytest.approx(mine.iloc[136:].mean())
    assert users.late[row] == pytest.approx(mine.iloc[204:].mean())


def test_aa_tests_on_real_users_keep_their_promise(users: Users) -> None:
    """With and without CUPED: about 5 % of 600 A/A tests have p < .05, and SRM stays quiet."""
    names = [f"test-{i}" for i in range(600)]
    for covariate in (None, users.before):
        p, srm_p = aa_p_values(users.ids, users.after, names, covariate=covariate)
        rate, _ = share_below(p, 0.05)
        assert abs(rate - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 600), f"false-positive rate {rate}"
        assert np.mean(srm_p < 0.001) < 0.01


def test_cuped_finds_a_lift_more_often(users: Users) -> None:
    names = [f"power-{i}" for i in range(200)]
    plain, _ = aa_p_values(users.ids, users.after, names, lift=0.08)
    sharp, _ = aa_p_values(users.ids, users.after, names, lift=0.08, covariate=users.before)
    assert share_below(sharp, 0.05)[0] > share_below(plain, 0.05)[0] + 0.03


def test_crossed_counts_every_unit_once() -> None:
    table = crossed(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0]))
    assert table.tolist() == [[1, 1], [1, 2]]
