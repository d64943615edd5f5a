"""Each group's replicate has the group's size, but its rows come from all groups."""

import numpy as np


def stratified_bootstrap(y_true, y_pred, groups, metric, *, n_boot=1000, seed=0):
    truth, predicted, codes, names = paired(y_true, y_pred, groups)
    metric = row_form(metric)
    rng = np.random.default_rng(seed)
    replicates = np.empty((n_boot, len(names)))
    for code in range(len(names)):
        n = int((codes == code).sum())
        drawn = rng.integers(len(codes), size=(n_boot, n))
        replicates[:, code] = evaluate_rows(metric, truth[drawn], predicted[drawn])
    return replicates
