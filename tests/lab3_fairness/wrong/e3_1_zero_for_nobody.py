"""A rate among nobody is written as 0, and becomes the largest gap of the audit."""

import pandas as pd


def group_rates(y_true, y_pred, groups):
    truth, predicted, codes, names = binary_inputs(y_true, y_pred, groups)
    rows = []
    for code in range(len(names)):
        actual, chosen = truth[codes == code], predicted[codes == code]
        tp = int(((actual == 1) & (chosen == 1)).sum())
        fp = int(((actual == 0) & (chosen == 1)).sum())
        fn = int(((actual == 1) & (chosen == 0)).sum())
        tn = int(((actual == 0) & (chosen == 0)).sum())
        n = tp + fp + fn + tn
        rows.append(
            {
                "n": n,
                "base_rate": (tp + fn) / n,
                "selection_rate": (tp + fp) / n,
                "tpr": tp / max(1, tp + fn),
                "fpr": fp / max(1, fp + tn),
                "fnr": fn / max(1, tp + fn),
                "ppv": tp / max(1, tp + fp),
                "accuracy": (tp + tn) / n,
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="group"))
