"""Interleaving passes the gate of the lab's methods, and its two classic mistakes do not."""

from __future__ import annotations

import numpy as np
import pytest

from labs.lab6_online_eval import methods_interleaving as subject
from labs.lab6_online_eval.interleaving import compare_interleaved
from labs.lab6_online_eval.validation import validate

METHODS = {method.name: method for method in subject.methods()}


def test_the_test_over_users_is_offered() -> None:
    verdict = validate(METHODS["interleaving_per_user"], 2000, seed=0)
    assert verdict.offered, verdict.reasons


@pytest.mark.parametrize("name", ["interleaving_per_session", "interleaving_a_first"])
def test_a_mistake_is_found(name: str) -> None:
    """Sessions as users: the interval is too narrow. No coin: A wins by its places."""
    assert METHODS[name].flawed
    verdict = validate(METHODS[name], 500, seed=0)
    assert not verdict.offered
    assert verdict.fpr > 0.07


def test_what_is_validated_is_what_is_taught() -> None:
    """The vectorised experiment gives what `compare_interleaved` gives of the same sessions."""
    found = subject.per_user(np.random.default_rng(3), 2, 0.1)
    user, credit = subject._sessions(np.random.default_rng(3), 2, 0.1, fair=True)
    for number in range(2):
        mine = user // subject.USERS == number
        taught = compare_interleaved(user[mine], credit[mine])
        assert found.p[number] == pytest.approx(taught.p, abs=1e-12)
        assert (found.low[number], found.high[number]) == pytest.approx(taught.ci95)
