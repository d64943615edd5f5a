"""A world of 80 people and 300 films, made in a millisecond; two rankers and a study in it."""

from __future__ import annotations

from functools import cache

import numpy as np

from capstone.experiment_study import ExperimentStudy, study_experiment
from capstone.off_policy import TwoArms
from capstone.world import World
from capstone.world_fit import RANK

PEOPLE, FILMS = 80, 300


@cache
def small_world() -> World:
    rng = np.random.default_rng(7)
    taste = rng.normal(0, 0.18, (PEOPLE, RANK))
    level = np.column_stack([rng.normal(-3.0, 1.4, PEOPLE), rng.normal(0, 0.3, PEOPLE)])
    films = np.column_stack([rng.normal(0, 1.0, (FILMS, RANK)), rng.normal(0, 0.4, FILMS)])
    return World(
        people=np.hstack([taste, level]).astype(np.float32),
        films=films.astype(np.float32),
        slope=2.0,
        satisfaction=np.array([3.4, 0.5, 0.9, 2.5, 3.5, 4.5]),
        count=np.ones(FILMS),
        activity=np.ones(PEOPLE),
        creator=np.concatenate([[0], np.ones(FILMS, dtype=np.int64)]),
        creator_effect=np.zeros(121),
        born=np.full(FILMS, -300.0),
        seed=0,
        n_users=PEOPLE,
        n_items=FILMS,
    )


@cache
def two_arms(noise: float = 0.3) -> TwoArms:
    """The champion ranks by a noisy view of the world's clicks, the candidate by a better one."""
    world, rng = small_world(), np.random.default_rng(8)
    ids = np.tile(np.arange(1, FILMS + 1), (PEOPLE, 1))
    click = world.probabilities(np.arange(PEOPLE), ids)["click"]
    champion = click + noise * rng.random(click.shape)
    order = np.argsort(-champion, axis=1, kind="stable")[:, :120]
    candidate = click + 0.3 * noise * rng.random(click.shape)
    take = np.take_along_axis
    return TwoArms(take(ids, order, 1), take(champion, order, 1), take(candidate, order, 1))


@cache
def small_study() -> ExperimentStudy:
    return study_experiment(
        small_world(), two_arms(), repeats=6, users=1000, sessions=800, watched=3000, explored=800,
        seed=4,
    )  # fmt: skip
