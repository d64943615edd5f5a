"""Only the TPR gap: that is equal opportunity, and blind to false positives."""


def equalized_odds_difference(y_true, y_pred, groups):
    rates = group_rates(y_true, y_pred, groups)["tpr"]
    return float(rates.max() - rates.min())
