"""Labels and predictions are drawn separately, so a label loses its prediction."""

import numpy as np


def stratified_bootstrap(y_true, y_pred, groups, metric, *, n_boot=1000, seed=0):
    truth, predicted, codes, names = paired(y_true, y_pred, groups)
    metric = row_form(metric)
    rng = np.random.default_rng(seed)
    replicates = np.empty((n_boot, len(names)))
    for code in range(len(names)):
        members = np.flatnonzero(codes == code)
        size = (n_boot, len(members))
        replicates[:, code] = evaluate_rows(
            metric, rng.choice(truth[members], size), rng.choice(predicted[members], size)
        )
    return replicates
