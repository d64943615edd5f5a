"""Each group is compared with the rate over everybody, not with the other groups."""

import numpy as np


def equalized_odds_difference(y_true, y_pred, groups):
    rates = group_rates(y_true, y_pred, groups)
    truth, predicted = np.asarray(y_true), np.asarray(y_pred)
    tpr = abs(rates["tpr"] - predicted[truth == 1].mean()).max()
    fpr = abs(rates["fpr"] - predicted[truth == 0].mean()).max()
    return float(max(tpr, fpr))
