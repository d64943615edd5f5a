"""Predictions are shuffled and groups stay: the null breaks label and prediction apart as well."""

import numpy as np


def gap_null(y_true, y_pred, groups, metric, *, n_permutations=1000, seed=0):
    truth, predicted, codes, names = paired(y_true, y_pred, groups)
    metric = row_form(metric)
    observed = gap(evaluate_groups(metric, truth, predicted, codes, len(names)))
    rng = np.random.default_rng(seed)
    gaps = np.array(
        [
            gap(evaluate_groups(metric, truth, rng.permutation(predicted), codes, len(names)))
            for _ in range(n_permutations)
        ]
    )
    reached = int(np.sum(gaps >= observed - 1e-12))
    return GapNull(observed, gaps, (1 + reached) / (1 + n_permutations))
