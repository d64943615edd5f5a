"""Open Bandit: what a fashion shop recommended, with which probability, and what was clicked.

Three campaigns (All, Men, Women), each logged for the same week under two policies at once: uniform
random, and Bernoulli Thompson sampling (BTS). So one log can estimate the other's policy, and the
other log says how well: off-policy evaluation with an answer.

Under random the probability of each action is 1 / K. What BTS *would* have done on the random log's
rows is not in the log; its released Beta parameters say it: the three largest of K draws fill the
three places. `thompson_probabilities` integrates that exactly; the data's own software simulates
it, and its estimates carry that noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.data import Dataset
from common.errors import require

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CAMPAIGNS = ("all", "men", "women")
POLICIES = ("random", "bts")
PLACES = 3
CELLS = 4000
TINY = 1e-100


@dataclass(frozen=True)
class Log:
    """One campaign under one policy, one row a recommendation.

    Attributes
    ----------
    action
        Int [n]: the item, 0 to K - 1.
    position
        Int [n]: its place, 0 to 2.
    reward
        Float [n]: 1 for a click.
    propensity
        Float [n]: probability with which the policy put this item at this place, > 0.
    user
        Float [n, d]: the user's four features, one-hot.
    affinity
        Float [n, K]: past clicks of the user on each item's kind.
    """

    campaign: str
    policy: str
    action: Ints
    position: Ints
    reward: Floats
    propensity: Floats
    user: Floats
    affinity: Floats

    @property
    def n(self) -> int:
        return len(self.action)

    @property
    def n_actions(self) -> int:
        return self.affinity.shape[1]

    @property
    def clicks(self) -> int:
        return int(self.reward.sum())


def read_log(dataset: Dataset, policy: str, campaign: str) -> Log:
    """A log of ``common.data.load("open-bandit")``.

    Raises
    ------
    InputError
        A policy or campaign that there is not; propensities outside (0, 1], rewards other than 0
        and 1, items that the campaign does not have.

    Notes
    -----
    Saito, Aihara, Matsutani & Narita (2021), Open Bandit Dataset and Pipeline, NeurIPS Datasets and
    Benchmarks. 10,000 rows a log: a sample of the 26 million.
    """
    import pandas as pd

    require(policy in POLICIES, "policy", policy, f"must be one of {', '.join(POLICIES)}")
    require(campaign in CAMPAIGNS, "campaign", campaign, f"must be one of {', '.join(CAMPAIGNS)}")
    table = dataset.table(f"{policy}/{campaign}")
    features = [f"user_feature_{number}" for number in range(4)]
    affinities = [name for name in table.columns if name.startswith("user-item_affinity_")]
    log = Log(
        campaign=campaign,
        policy=policy,
        action=table["item_id"].to_numpy(),
        position=table["position"].to_numpy() - 1,
        reward=table["click"].to_numpy(dtype=float),
        propensity=table["propensity_score"].to_numpy(dtype=float),
        user=pd.get_dummies(table[features]).to_numpy(dtype=float),
        affinity=table[affinities].to_numpy(dtype=float),
    )
    checked_log(log)
    return log


def checked_log(log: Log) -> None:
    """Raise `InputError` where a log contradicts itself."""
    bad = int(np.count_nonzero(~((log.propensity > 0) & (log.propensity <= 1))))
    require(
        bad == 0,
        "propensities outside (0, 1]",
        bad,
        "must be 0",
        "log the probability with which the row's action was drawn",
    )
    bad = int(np.count_nonzero(~np.isin(log.reward, (0.0, 1.0))))
    require(bad == 0, "rewards other than 0 and 1", bad, "must be 0")
    bad = int(np.count_nonzero((log.action < 0) | (log.action >= log.n_actions)))
    require(bad == 0, f"actions outside 0 to {log.n_actions - 1}", bad, "must be 0")
    bad = int(np.count_nonzero((log.position < 0) | (log.position >= PLACES)))
    require(bad == 0, f"positions outside 0 to {PLACES - 1}", bad, "must be 0")


def read_prior(dataset: Dataset, campaign: str) -> tuple[Floats, Floats]:
    """The Beta parameters (a, b), float [K] each, with which BTS began the logged week.

    They come with the Open Bandit Pipeline (Apache 2.0), as its authors released them.
    """
    import yaml

    require(campaign in CAMPAIGNS, "campaign", campaign, f"must be one of {', '.join(CAMPAIGNS)}")
    prior = yaml.safe_load(dataset.path("bts/prior.yaml").read_text(encoding="utf-8"))[campaign]
    return np.asarray(prior["alpha"], dtype=float), np.asarray(prior["beta"], dtype=float)


def uniform_probabilities(n_actions: int) -> Floats:
    """1 / K everywhere: float [K, 3]."""
    return np.full((n_actions, PLACES), 1 / n_actions)


def thompson_probabilities(a: ArrayLike, b: ArrayLike, *, cells: int = CELLS) -> Floats:
    """Probability of each arm at each of three places under Beta-Bernoulli Thompson sampling.

    One value is drawn for each arm from ``Beta(a_i, b_i)``; the largest takes the first place, and
    so on. With s_j(x) the chance that arm j draws more than x,

        P(i at place l) = integral f_i(x) P(exactly l - 1 of the others draw more than x) dx

    and the inner probability is ``prod_j (1 - s_j)`` times an elementary symmetric polynomial of
    the odds ``s_j / (1 - s_j)``, j not i.

    Parameters
    ----------
    a, b
        Float [K], > 0; K >= 3.
    cells
        Number of cells in x (midpoint rule, each weighted with the arm's exact probability of it).

    Returns
    -------
    float [K, 3]
        Each column sums to 1.

    Raises
    ------
    InputError
        Fewer than three arms, shapes that differ, a parameter that is not a number above 0.
    """
    from scipy.stats import beta

    first, second = _checked_prior(a, b)
    top = float(np.max(beta.isf(1e-13, first, second)))
    edges = np.linspace(0.0, top, cells + 1)[:, None]
    mass = np.diff(beta.cdf(edges, first, second), axis=0)
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.maximum(beta.cdf(middle, first, second), TINY)
    odds = np.maximum(1 - below, 0.0) / below
    none = np.exp(np.log(below).sum(axis=1, keepdims=True)) / below
    one = odds.sum(axis=1, keepdims=True) - odds
    squares = (odds**2).sum(axis=1, keepdims=True) - odds**2
    places = none, none * one, none * (one**2 - squares) / 2
    found = np.stack([(mass * place).sum(axis=0) for place in places], axis=1)
    return np.asarray(found / found.sum(axis=0))


def simulated_probabilities(a: ArrayLike, b: ArrayLike, draws: int, seed: int) -> Floats:
    """`thompson_probabilities` by simulation, float [K, 3], in the random stream of the Open Bandit
    Pipeline (``RandomState(seed)``, one row of K values a draw)."""
    first, second = _checked_prior(a, b)
    require(draws >= 1, "draws", draws, "must be at least 1", "try 100000")
    rng = np.random.RandomState(seed)
    counts = np.zeros((len(first), PLACES))
    for start in range(0, draws, 10_000):
        values = rng.beta(first, second, size=(min(10_000, draws - start), len(first)))
        top = np.argpartition(-values, PLACES - 1, axis=1)[:, :PLACES]
        order = np.argsort(-np.take_along_axis(values, top, axis=1), axis=1)
        placed = np.take_along_axis(top, order, axis=1)
        for place in range(PLACES):
            counts[:, place] += np.bincount(placed[:, place], minlength=len(first))
    return counts / draws


def at_positions(probabilities: Floats, log: Log) -> Floats:
    """Probability of every action at each row's place: float [K, 3] -> float [n, K]."""
    require(
        probabilities.shape == (log.n_actions, PLACES),
        "shape of the probabilities",
        probabilities.shape,
        f"must be {(log.n_actions, PLACES)}",
    )
    return np.asarray(probabilities[:, log.position].T)


def _checked_prior(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    require(
        first.ndim == 1 and first.shape == second.shape,
        "shape of b",
        second.shape,
        f"must be {first.shape}, as a",
    )
    require(len(first) >= PLACES, "arms", len(first), f"must be at least {PLACES}, one a place")
    both = np.concatenate([first, second])
    bad = int(np.count_nonzero(~(np.isfinite(both) & (both > 0))))
    require(bad == 0, "parameters that are not above 0", bad, "must be 0")
    return first, second
