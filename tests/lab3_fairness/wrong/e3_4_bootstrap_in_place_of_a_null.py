"""Groups are resampled as they are: that is the scatter of the gap, not what chance gives."""

import numpy as np


def gap_null(y_true, y_pred, groups, metric, *, n_permutations=1000, seed=0):
    truth, predicted, codes, names = paired(y_true, y_pred, groups)
    metric = row_form(metric)
    observed = gap(evaluate_groups(metric, truth, predicted, codes, len(names)))
    values = stratified_bootstrap(truth, predicted, codes, metric, n_boot=n_permutations, seed=seed)
    gaps = values.max(axis=1) - values.min(axis=1)
    reached = int(np.sum(gaps >= observed - 1e-12))
    return GapNull(observed, gaps, (1 + reached) / (1 + n_permutations))
