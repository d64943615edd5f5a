"""Simulated people, so that an experiment has outcomes. MovieLens holds ratings, not exposures:
no click-through or lift can be read from it, so everything here is simulated and says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capstone.baselines import ease
from capstone.data import Feed, Ints

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Simulated click behaviour over the real users' tastes.

    A person looks at position j (from 0) with probability ``1 / log2(j + 2)`` and clicks what they
    look at with the probability ``appeal[user, item]``. The appeal is an EASE fit of *all*
    interactions, the held-out ones included: the world knows what the models do not.
    """

    appeal: Floats
    """[n_users, n_items + 1], probabilities; users count from 0."""

    def clicks(self, users: Ints, lists: Ints, rng: np.random.Generator) -> Ints:
        """Simulated clicks of each session: users [n], lists [n, k] -> [n]."""
        examined = 1 / np.log2(np.arange(lists.shape[1]) + 2.0)
        probability = self.appeal[users[:, None], lists] * examined
        return (rng.random(lists.shape) < probability).sum(axis=1)


def build_world(feed: Feed, *, regularisation: float = 200.0) -> World:
    """Fit the world to every interaction; active people, by their count, click more."""
    everything = feed.matrix(feed.sequences)
    scores = everything @ ease(everything, regularisation)
    best = np.quantile(scores, 0.995, axis=1, keepdims=True)
    count = everything.sum(axis=1, keepdims=True)
    activity = np.clip(np.sqrt(count / np.median(count)), 0.3, 3.0)
    return World(np.clip(0.3 * activity * scores / best, 0.0, 0.9))


def pre_period_clicks(
    world: World, users: Ints, feed: Feed, rng: np.random.Generator, *, sessions: int = 20
) -> Floats:
    """Simulated clicks a session before the experiment, on the EASE baseline's feed: [n].

    It is what CUPED adjusts for: people who clicked much before click much in either arm.
    """
    known = feed.matrix(feed.test_history)
    scores = np.where(feed.seen, -np.inf, known @ ease(feed.matrix(feed.train), 500.0))
    earlier = np.argsort(-scores, axis=1, kind="stable")[:, :10][users]
    clicks = [world.clicks(users, earlier, rng) for _ in range(sessions)]
    mean: Floats = np.mean(clicks, axis=0)
    return mean
