"""The true positive rate is divided by the predicted positives: that is the PPV."""

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
                "base_rate": rate(tp + fn, n),
                "selection_rate": rate(tp + fp, n),
                "tpr": rate(tp, tp + fp),
                "fpr": rate(fp, fp + tn),
                "fnr": rate(fn, tp + fn),
                "ppv": rate(tp, tp + fp),
                "accuracy": rate(tp + tn, n),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="group"))
