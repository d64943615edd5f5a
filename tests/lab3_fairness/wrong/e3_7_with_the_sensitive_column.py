"""The sensitive column stays among the features, and gives itself away."""

from sklearn.metrics import roc_auc_score


def proxy_auc(table, *, sensitive, group, label, make=boosting, folds=5, seed=0):
    columns = [name for name in table.columns if name != label]
    task = proxy_task(table, columns, sensitive=sensitive, group=group, label=label, folds=folds)
    scores = cross_fitted(make, task, folds=folds, seed=seed)
    auc = float(roc_auc_score(task.labels, scores))
    return max(auc, 1 - auc)
