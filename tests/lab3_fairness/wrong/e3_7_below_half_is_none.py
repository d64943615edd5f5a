"""An AUC below one half is taken for no proxy, though it only ranks the wrong way round."""

from sklearn.metrics import roc_auc_score


def proxy_auc(table, *, sensitive, group, label, make=boosting, folds=5, seed=0):
    columns = [name for name in table.columns if name not in (sensitive, label)]
    task = proxy_task(table, columns, sensitive=sensitive, group=group, label=label, folds=folds)
    scores = cross_fitted(make, task, folds=folds, seed=seed)
    return max(float(roc_auc_score(task.labels, scores)), 0.5)
