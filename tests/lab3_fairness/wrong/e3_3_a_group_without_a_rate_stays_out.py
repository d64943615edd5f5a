"""A group without positives is left out unseen: with one group left the gap is 0."""


def equalized_odds_difference(y_true, y_pred, groups):
    rates = group_rates(y_true, y_pred, groups)[["tpr", "fpr"]]
    return float((rates.max() - rates.min()).max())
