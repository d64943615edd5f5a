"""Rows are shuffled, not drawn with replacement: every replicate is the data itself."""

import numpy as np


def stratified_bootstrap(y_true, y_pred, groups, metric, *, n_boot=1000, seed=0):
    truth, predicted, codes, names = paired(y_true, y_pred, groups)
    metric = row_form(metric)
    rng = np.random.default_rng(seed)
    replicates = np.empty((n_boot, len(names)))
    for code in range(len(names)):
        members = np.flatnonzero(codes == code)
        drawn = rng.permuted(np.tile(members, (n_boot, 1)), axis=1)
        replicates[:, code] = evaluate_rows(metric, truth[drawn], predicted[drawn])
    return replicates
