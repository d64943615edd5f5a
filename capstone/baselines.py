"""What a model must beat before it is worth serving: popularity, EASE, logistic regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from capstone.data import LIKE_FROM, Feed, RankingSet

if TYPE_CHECKING:
    from capstone.random_split import RandomSplit

Floats = NDArray[np.float64]


def popularity(train: Floats) -> Floats:
    """Scores [n_items + 1]: interactions of each item."""
    return train.sum(axis=0)


def ease(train: Floats, regularisation: float) -> Floats:
    """Item-item weights B [n, n] of EASE (Steck 2019, arXiv 1905.03375, equation 8).

    With ``P = (X'X + lambda I)^-1``: ``B = I - P / diag(P)``, column by column, zero diagonal.
    Scores are ``X @ B``.
    """
    gram = train.T @ train
    gram[np.diag_indices_from(gram)] += regularisation
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def logistic_regression_scores(feed: Feed, rows: RankingSet) -> Floats:
    """P(like) of the ranking set, from the training interactions (:func:`logistic_regression`)."""
    user = np.repeat(np.arange(feed.n_users), [len(s.items) for s in feed.train])
    item = np.concatenate([sequence.items for sequence in feed.train])
    liked = np.concatenate([sequence.ratings for sequence in feed.train]) >= LIKE_FROM
    return logistic_regression(feed, (user, item, liked), (rows.user, rows.item))


def logistic_regression_on(feed: Feed, split: RandomSplit) -> Floats:
    """P(like) of every row of a random split, from its training rows."""
    rows = split.rows(0)
    train = (split.user[rows], split.item[rows], split.liked[rows])
    return logistic_regression(feed, train, (split.user, split.item))


def logistic_regression(
    feed: Feed,
    train: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]],
    asked: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> Floats:
    """P(like) of (user, item) pairs [n], from one-hot user, item, occupation, gender, age, genres.

    scikit-learn's default C = 1; ``train`` holds users, items and labels.
    """
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    occupation = np.unique(feed.users["occupation"], return_inverse=True)[1]
    gender = np.unique(feed.users["gender"], return_inverse=True)[1]
    profile = np.column_stack(
        [np.eye(part.max() + 1)[part] for part in (occupation, gender)]
        + [feed.users["age"].to_numpy()[:, None] / 100]
    )

    def features(user: NDArray[np.int64], item: NDArray[np.int64]) -> sparse.csr_matrix:
        one, index = np.ones(len(user)), np.arange(len(user))
        return sparse.hstack(
            [
                sparse.csr_matrix((one, (index, user)), shape=(len(user), feed.n_users)),
                sparse.csr_matrix((one, (index, item)), shape=(len(user), feed.n_items + 1)),
                sparse.csr_matrix(profile[user]),
                sparse.csr_matrix(feed.genres[item]),
            ],
            format="csr",
        )

    model = LogisticRegression(max_iter=300).fit(features(train[0], train[1]), train[2])
    return np.asarray(model.predict_proba(features(*asked))[:, 1])
