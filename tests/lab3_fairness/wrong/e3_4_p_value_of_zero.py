"""The observed data is not counted among the shuffles, so p can be 0."""

import numpy as np


def gap_null(y_true, y_pred, groups, metric, *, n_permutations=1000, seed=0):
    truth, predicted, codes, names = paired(y_true, y_pred, groups)
    metric = row_form(metric)
    keep = eligible_rows(metric, truth, predicted)
    truth, predicted, codes = truth[keep], predicted[keep], codes[keep]
    observed = gap(evaluate_groups(metric, truth, predicted, codes, len(names)))
    rng = np.random.default_rng(seed)
    gaps = np.array(
        [
            gap(evaluate_groups(metric, truth, predicted, rng.permutation(codes), len(names)))
            for _ in range(n_permutations)
        ]
    )
    return GapNull(observed, gaps, float(np.mean(gaps >= observed - 1e-12)))
