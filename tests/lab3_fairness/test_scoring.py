"""Out-of-fold scores: no row is scored by a model that saw it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import scoring
from labs.lab3_fairness.tabular import Task, adult_task


class Memory:
    """Answers 1 for a row that it was trained on, 0 for any other."""

    def fit(self, features: pd.DataFrame, labels: object) -> Memory:
        self.seen = set(features["number"])
        return self

    def predict_proba(self, features: pd.DataFrame) -> np.ndarray:
        known = features["number"].isin(self.seen).to_numpy(dtype=float)
        return np.stack([1 - known, known], axis=1)


def numbered(n: int = 40) -> Task:
    labels = np.tile([0, 1], n // 2).astype(np.int64)
    groups = np.repeat(["a", "b"], n // 2).astype(object)
    return Task(pd.DataFrame({"number": np.arange(n)}), labels, groups)


def test_no_row_is_scored_by_a_model_that_saw_it():
    """A model that remembers its rows remembers none of those it scores."""
    found = scoring.cross_fitted(lambda seed: Memory(), numbered(), folds=4)
    assert found.tolist() == [0.0] * 40


def test_one_fold_or_more_folds_than_the_smallest_cell_has_rows_is_an_error():
    with pytest.raises(InputError, match="folds"):
        scoring.cross_fitted(lambda seed: Memory(), numbered(), folds=1)
    with pytest.raises(InputError, match="must be <= 10"):
        scoring.cross_fitted(lambda seed: Memory(), numbered(), folds=11)


def test_tuned_boosting_ranks_better_than_logistic_regression():
    """The best model is the one worth post-processing."""
    from sklearn.metrics import log_loss

    data = load("adult")
    train, test = (adult_task(data.table(name).head(6000)) for name in ("train", "test"))
    losses = [
        log_loss(
            test.labels,
            scoring.scores(make(0).fit(train.features, train.labels), test.features),
        )
        for make in (scoring.tuned_boosting, scoring.logistic_regression)
    ]
    assert losses[0] < losses[1]
