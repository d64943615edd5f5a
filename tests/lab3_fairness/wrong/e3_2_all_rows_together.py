"""Rows are drawn from all groups together: group sizes vary, and small groups vanish."""

import numpy as np


def stratified_bootstrap(y_true, y_pred, groups, metric, *, n_boot=1000, seed=0):
    truth, predicted, codes, names = paired(y_true, y_pred, groups)
    rng = np.random.default_rng(seed)
    replicates = np.empty((n_boot, len(names)))
    for number in range(n_boot):
        drawn = rng.integers(len(codes), size=len(codes))
        replicates[number] = evaluate_groups(
            metric, truth[drawn], predicted[drawn], codes[drawn], len(names)
        )
    return replicates
