"""What the simulated world takes from real ratings: tastes, popularity and how much people like.

Three things are estimated from MovieLens. *Choice*: who watches what, from which interactions
exist. *Satisfaction*: how they rate what they watched. *Popularity* and *activity*: counts. All
else in the world (positions, click level, freshness, creators, drift) is invented, in
:mod:`capstone.world`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from capstone.baselines import ease
from capstone.data import Feed, Sequence

RANK = 32
"""Taste dimensions."""
REGULARISATION = 200.0
"""Of EASE: weaker than a recommender's, since the world may know its people well."""
RECENT, LASTING = 20.0, 0.1
"""A film watched n films ago counts ``exp(-n / RECENT) + LASTING`` in a user's taste of today. With
this weight EASE predicts the validation film best (NDCG@10 0.12 against 0.08 without)."""
DAMPING = 5.0
"""Pseudo-ratings at the mean in the mean of a user or film."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fit:
    """Estimates from the real interactions; items count from 0 here.

    Attributes
    ----------
    user_taste, item_taste : [n_users, RANK], [n_items, RANK]
        Their product is the taste of a user for an item: about 1 at a user's best items, about 0
        at most others.
    slope : float
        Logit of choosing an item per unit of taste: maximum likelihood over all pairs.
    intercept : float
        Its intercept, for a user of median activity.
    activity : [n_users]
        ``log(interactions / median)``.
    count : [n_items]
        Interactions.
    user_level, item_level : [n_users], [n_items]
        Damped deviations of the ratings from their mean.
    mean, taste_weight, spread : float
        Latent satisfaction is ``mean + user_level + item_level + taste_weight * taste`` with a
        normal error of standard deviation ``spread``, in stars.
    thresholds : [3]
        Satisfaction above which the rating is >= 3, >= 4 and 5: at these the probabilities agree
        with the real shares on average (ordered probit).
    """

    user_taste: Floats
    item_taste: Floats
    slope: float
    intercept: float
    activity: Floats
    count: Floats
    user_level: Floats
    item_level: Floats
    mean: float
    taste_weight: float
    spread: float
    thresholds: Floats


def fit(feed: Feed, sequences: tuple[Sequence, ...]) -> Fit:
    """Estimate the world's parameters from these interactions of ``feed``'s users.

    Taste is the EASE score (Steck 2019) of the history, recent films first, divided by each user's
    99.5 % quantile and cut to its :data:`RANK` largest singular values.
    """
    chosen = feed.matrix(sequences)[:, 1:]
    scores = recent_profile(feed, sequences)[:, 1:] @ ease(chosen, REGULARISATION)
    scores /= np.quantile(scores, 0.995, axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(scores @ scores.T)
    user_taste = vectors[:, -RANK:]
    item_taste = scores.T @ user_taste
    taste = user_taste @ item_taste.T
    count = chosen.sum(axis=1)
    activity = np.log(count / np.median(count))
    # every other film: twice as fast, and the curve has two parameters
    intercept, slope = _logistic(taste[:, ::2], chosen[:, ::2], activity)

    user = np.repeat(np.arange(feed.n_users), [len(s.items) for s in sequences])
    item = np.concatenate([s.items for s in sequences]) - 1
    rating = np.concatenate([s.ratings for s in sequences]).astype(float)
    mean = float(rating.mean())
    item_level = _damped(item, rating - mean, feed.n_items)
    user_level = _damped(user, rating - mean - item_level[item], feed.n_users)
    rest = rating - mean - user_level[user] - item_level[item]
    centred = taste[user, item] - taste[user, item].mean()
    taste_weight = float(rest @ centred / (centred @ centred))
    mean -= taste_weight * float(taste[user, item].mean())
    satisfaction = mean + user_level[user] + item_level[item] + taste_weight * taste[user, item]
    spread = float((rating - satisfaction).std())
    thresholds = np.array(
        [_threshold(satisfaction, spread, float((rating >= r).mean())) for r in (3, 4, 5)]
    )
    return Fit(
        user_taste, item_taste, slope, intercept, activity, chosen.sum(axis=0),
        user_level, item_level, mean, taste_weight, spread,
        thresholds,
    )  # fmt: skip


def recent_profile(feed: Feed, sequences: tuple[Sequence, ...]) -> Floats:
    """Weights of each user's films, recent ones above old ones: [n_users, n_items + 1]."""
    profile = np.zeros((feed.n_users, feed.n_items + 1))
    for row, sequence in zip(profile, sequences, strict=True):
        ago = np.arange(len(sequence.items))[::-1]
        row[sequence.items] = np.exp(-ago / RECENT) + LASTING
    return profile


def _logistic(taste: Floats, chosen: Floats, offset: Floats) -> tuple[float, float]:
    """Maximum likelihood of ``P(chosen) = sigmoid(a + b * taste + offset)`` by Newton's method."""
    a, b = -4.0, 4.0
    for _ in range(5):
        p = expit(a + b * taste + offset[:, None])
        error, weight = chosen - p, p * (1 - p)
        weighted = weight * taste
        hessian = np.array(
            [[weight.sum(), weighted.sum()], [weighted.sum(), (weighted * taste).sum()]]
        )
        step = np.linalg.solve(hessian, [error.sum(), (error * taste).sum()])
        a, b = a + step[0], b + step[1]
    return float(a), float(b)


def _damped(index: NDArray[np.int64], values: Floats, n: int) -> Floats:
    total = np.bincount(index, values, n)
    return np.asarray(total / (np.bincount(index, minlength=n) + DAMPING))


def _threshold(satisfaction: Floats, spread: float, share: float) -> float:
    """The threshold t at which ``mean(Phi((satisfaction - t) / spread))`` is ``share``."""
    return float(
        brentq(lambda t: float(ndtr((satisfaction - t) / spread).mean()) - share, -5.0, 10.0)
    )
