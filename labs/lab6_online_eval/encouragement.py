"""Encouragement experiments: one in the lab's world, and a real one (Thornton 2008).

In the lab's world the treatment is a better list that nobody has to switch on. A random half is
invited to turn on the new ranker. Only the invited can (one-sided noncompliance), and those accept
who are more active, so that takers differ from the others even without the ranker. The truth, the
effect on those who would accept, is known.

In Malawi a cash voucher of random value was to be had by whoever fetched the result of an HIV test:
Thornton (2008), The Demand for, and Impact of, Learning HIV Status, AER 98. The public table holds
the voucher and whether the result was fetched, but not what she measured afterwards (the buying of
condoms), so the outcome that is used here is simulated, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.errors import require
from labs.lab6_online_eval.causal_estimate import Bools, Floats
from labs.lab6_online_eval.world import Ints, World

if TYPE_CHECKING:
    from common.data import Dataset


@dataclass(frozen=True)
class EncouragementData:
    """One row a unit. ``outcome`` float [n]: clicks a session; ``received``, ``assigned`` bool [n];
    ``true_cace``: mean true effect on the units that would accept; ``true_itt``: on all invited.
    """

    outcome: Floats
    received: Bools
    assigned: Bools
    true_cace: float
    true_itt: float


def acceptance(world: World, *, share: float = 0.4) -> Floats:
    """Probability of accepting the invitation, float [n_users]: rises with activity."""
    require(0 < share < 1, "share", share, "must be between 0 and 1", "try 0.4")
    activity = np.log(world.visits)
    standard = (activity - activity.mean()) / activity.std()
    level = np.log(share / (1 - share))
    return np.asarray(1 / (1 + np.exp(-(level + 1.5 * standard))))


def encouragement_experiment(
    world: World,
    control: Ints,
    treatment: Ints,
    *,
    n_units: int,
    seed: int,
    sessions: int = 5,
    share: float = 0.4,
) -> EncouragementData:
    """Simulate it: ``n_units`` people of the world, half of them invited, some accept.

    Parameters
    ----------
    control, treatment
        Int [n_users, k]: the lists of the two rankers.
    sessions
        Sessions of each unit; the outcome is its mean number of clicks a session.
    share
        Of the invited who accept, about.
    """
    require(n_units >= 100, "n_units", n_units, "must be at least 100")
    require(sessions >= 1, "sessions", sessions, "must be at least 1")
    rng = np.random.default_rng(seed)
    people = rng.integers(0, world.n_users, n_units)
    would_accept = rng.random(n_units) < acceptance(world, share=share)[people]
    assigned = rng.permutation(n_units) < n_units // 2
    received = assigned & would_accept
    lists = np.where(received[:, None], treatment[people], control[people])
    everybody = np.repeat(people, sessions)
    clicks = world.clicks(everybody, np.repeat(lists, sessions, axis=0), rng)
    outcome = clicks.sum(axis=1).reshape(n_units, sessions).mean(axis=1)
    effect = (world.expected_clicks(treatment) - world.expected_clicks(control))[people]
    return EncouragementData(
        outcome,
        received,
        np.asarray(assigned),
        float(effect[would_accept].mean()),
        float((effect * would_accept).mean()),
    )


@dataclass(frozen=True)
class Voucher:
    """The real encouragement, one row a person: ``learned`` bool [n] (fetched the result),
    ``offered`` bool [n] (a voucher above 0), ``value`` float [n] (US dollars), ``distance`` float
    [n] (km to the centre), ``village`` int [n].
    """

    learned: Bools
    offered: Bools
    value: Floats
    distance: Floats
    village: Ints


def read_voucher(dataset: Dataset) -> Voucher:
    """The people of ``load("nsw").table("thornton_hiv")`` of whom all of this is known."""
    table = dataset.table("thornton_hiv")[["got", "any", "tinc", "distvct", "villnum"]].dropna()
    return Voucher(
        (table["got"] == 1).to_numpy(),
        (table["any"] == 1).to_numpy(),
        table["tinc"].to_numpy(),
        table["distvct"].to_numpy(),
        table["villnum"].to_numpy().astype(np.int64),
    )


def simulate_purchases(
    voucher: Voucher, rng: np.random.Generator, *, effect: float = 0.5, confounding: float = 1.0
) -> Floats:
    """Simulated condoms bought, float [n]; learning the result adds ``effect``.

    ``confounding`` is what those who fetch more often than their voucher explains buy more anyway:
    it biases the comparison by choice, and not the one by voucher.
    """
    expected = np.zeros(len(voucher.learned))
    for value in np.unique(voucher.value):
        same = voucher.value == value
        expected[same] = voucher.learned[same].mean()
    keen = voucher.learned - expected
    village = rng.normal(0, 0.3, int(voucher.village.max()) + 1)[voucher.village]
    return np.asarray(
        1.0 + effect * voucher.learned + confounding * keen + village + rng.normal(0, 1, len(keen))
    )
