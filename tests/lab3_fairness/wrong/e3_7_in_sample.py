"""The AUC on the rows the model was fitted on: what it remembers, not what the columns tell."""

from sklearn.metrics import roc_auc_score


def proxy_auc(table, *, sensitive, group, label, make=boosting, folds=5, seed=0):
    columns = [name for name in table.columns if name not in (sensitive, label)]
    task = proxy_task(table, columns, sensitive=sensitive, group=group, label=label, folds=folds)
    model = make(seed).fit(task.features, task.labels)
    auc = float(roc_auc_score(task.labels, model.predict_proba(task.features)[:, 1]))
    return max(auc, 1 - auc)
