"""Interleaving as a method to be validated: the test over users, and two classic mistakes.

One simulated experiment: `USERS` users with 1 to `MOST_SESSIONS` sessions each, and lists of four
films, drafted in two rounds. Users differ in how much more they click the films of ranker B, so
that sessions of one user resemble each other; the mean over users is the effect asked for.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from scipy.stats import nct
from scipy.stats import t as student_t

from labs.lab6_online_eval.offline_metrics import discounts
from labs.lab6_online_eval.validation import Findings, Floats, Method

USERS = 100
MOST_SESSIONS = 5
ROUNDS = 2
CHANCE = 0.4 * discounts(2 * ROUNDS).reshape(ROUNDS, 2)
"""Mean click probability at the two places of each round, float [ROUNDS, 2]."""
TASTE = 0.3
"""Standard deviation over users of a user's own mean credit (uniform around the effect)."""
EFFECT = 0.15
ALPHA = 0.05


def methods() -> list[Method]:
    """The t-test over users, the same over sessions, and a draft in which A always begins."""
    return [
        Method("interleaving_per_user", per_user, EFFECT, power=formula_power(EFFECT)),
        Method("interleaving_per_session", per_session, EFFECT, flawed=True),
        Method("interleaving_a_first", a_first, EFFECT, flawed=True),
    ]


def per_user(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """`compare_interleaved` of n experiments at once: the users' mean credit against 0."""
    user, credit = _sessions(rng, n, effect, fair=True)
    return _over_users(user, credit, n)


def per_session(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """Every session counted as if it were a user of its own: the interval is too narrow."""
    user, credit = _sessions(rng, n, effect, fair=True)
    experiment = user // USERS
    size = np.bincount(experiment, minlength=n)
    mean = np.bincount(experiment, credit, n) / size
    squares = np.bincount(experiment, credit**2, n) - size * mean**2
    se = np.sqrt(squares / (size - 1) / size)
    return _t_test(mean, se, np.asarray(size - 1, dtype=float))


def a_first(rng: np.random.Generator, n: int, effect: float) -> Findings:
    """No coin: A picks first in every round, and has the better place of every two."""
    user, credit = _sessions(rng, n, effect, fair=False)
    return _over_users(user, credit, n)


def formula_power(effect: float) -> float:
    """Power of the t-test over users, by the noncentral t of their variance

    Var = TASTE^2 + E[1 / sessions] * E[variance of a session's credit given its user].
    """
    steps = (np.arange(200) + 0.5) / 200
    lean = _lean(effect + TASTE * sqrt(3) * (2 * steps - 1))
    within = float(_session_variance(lean).mean())
    often = float((1 / np.arange(1, MOST_SESSIONS + 1)).mean())
    shift = effect / sqrt((TASTE**2 + often * within) / USERS)
    quantile, dof = float(student_t.ppf(1 - ALPHA / 2, USERS - 1)), USERS - 1
    return float(nct.sf(quantile, dof, shift) + nct.cdf(-quantile, dof, shift))


def _lean(credit: Floats) -> Floats:
    """How much more than the mean B's films are clicked (A's: less) for a mean credit."""
    return credit / CHANCE.sum()


def _session_variance(lean: Floats) -> Floats:
    """Variance of one session's credit for users of this ``lean``, same shape."""
    total = np.zeros_like(lean)
    for places in CHANCE:
        mean, square = np.zeros_like(lean), np.zeros_like(lean)
        for b, a in (places, places[::-1]):
            p_b, p_a = b * (1 + lean), a * (1 - lean)
            mean += (p_b - p_a) / 2
            square += (p_b * (1 - p_b) + p_a * (1 - p_a) + (p_b - p_a) ** 2) / 2
        total += square - mean**2
    return total


def _sessions(
    rng: np.random.Generator, n: int, effect: float, *, fair: bool
) -> tuple[np.ndarray, Floats]:
    """The user (numbered through all experiments) and the credit of every session."""
    lean = _lean(effect + TASTE * sqrt(3) * rng.uniform(-1, 1, n * USERS))
    user = np.repeat(np.arange(n * USERS), rng.integers(1, MOST_SESSIONS + 1, n * USERS))
    credit = np.zeros(len(user))
    for places in CHANCE:
        b_first = rng.random(len(user)) < 0.5 if fair else np.zeros(len(user), dtype=bool)
        for place, chance in enumerate(places):
            side = np.where(b_first == (place == 0), 1.0, -1.0)
            credit += side * (rng.random(len(user)) < chance * (1 + side * lean[user]))
    return user, credit


def _over_users(user: np.ndarray, credit: Floats, n: int) -> Findings:
    mine = (np.bincount(user, credit) / np.bincount(user)).reshape(n, USERS)
    se = mine.std(axis=1, ddof=1) / sqrt(USERS)
    return _t_test(mine.mean(axis=1), se, np.full(n, USERS - 1.0))


def _t_test(mean: Floats, se: Floats, dof: Floats) -> Findings:
    half = student_t.ppf(1 - ALPHA / 2, dof) * se
    p = np.asarray(2 * student_t.sf(np.abs(mean) / se, dof))
    return Findings(mean, mean - half, mean + half, p)
