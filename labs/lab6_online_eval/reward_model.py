"""A model of the reward for off-policy evaluation: logistic regression, cross-fitted.

``logit P(click | x, a) = user + item + position + affinity``: additive, so that the predictions of
all K actions for a row cost no more than one plus K terms. It is fitted on clicks that one policy's
choices produced, so it is a guess for whatever that policy rarely chose.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from common.errors import require
from labs.lab6_online_eval.open_bandit import PLACES, Floats, Log

FOLDS = 3
STRENGTH = 0.1


def cross_fitted(log: Log, *, folds: int = FOLDS, strength: float = STRENGTH) -> Floats:
    """Predicted click probability of every action at each row's place, float [n, K].

    Each fold's rows are predicted by a model of the other folds, so that no row's own click is in
    its prediction; with it, the correction of the doubly robust estimate would be too small.

    Parameters
    ----------
    folds
        Rows are dealt to the folds in turn.
    strength
        sklearn's ``C``: the inverse of the penalty. Small, for there are some 40 clicks.

    Raises
    ------
    InputError
        Fewer than two folds, or a fold whose others hold no click.

    Notes
    -----
    Cross-fitting: Chernozhukov et al. (2018), Double/debiased machine learning, Econometrics
    Journal 21.
    """
    require(2 <= folds <= log.n, "folds", folds, f"must be from 2 to {log.n}", "try 3")
    fold = np.arange(log.n) % folds
    predicted = np.empty((log.n, log.n_actions))
    for number in range(folds):
        rows = fold == number
        clicks = int(log.reward[~rows].sum())
        require(
            0 < clicks < int((~rows).sum()),
            "clicks to fit on",
            clicks,
            "must be some, but not all rows",
            "use fewer folds or more rows",
        )
        predicted[rows] = _predict(log, rows, _fit(log, ~rows, strength))
    return predicted


def _fit(log: Log, rows: np.ndarray, strength: float) -> tuple[Floats, float]:
    from scipy.sparse import csr_matrix, hstack
    from sklearn.linear_model import LogisticRegression

    n = int(rows.sum())
    items = csr_matrix((np.ones(n), (np.arange(n), log.action[rows])), (n, log.n_actions))
    places = csr_matrix((np.ones(n), (np.arange(n), log.position[rows])), (n, PLACES))
    liked = log.affinity[np.flatnonzero(rows), log.action[rows]][:, None]
    design = hstack([items, places, csr_matrix(liked), csr_matrix(log.user[rows])]).tocsr()
    model = LogisticRegression(C=strength, max_iter=1000).fit(design, log.reward[rows])
    return model.coef_[0], float(model.intercept_[0])


def _predict(log: Log, rows: np.ndarray, fitted: tuple[Floats, float]) -> Floats:
    weight, intercept = fitted
    k = log.n_actions
    items, places, liked, user = np.split(weight, [k, k + PLACES, k + PLACES + 1])
    base = intercept + places[log.position[rows]] + log.user[rows] @ user
    return np.asarray(expit(base[:, None] + items + liked[0] * log.affinity[rows]))
