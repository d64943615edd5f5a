"""Accuracy takes the chance of the positive decision for the negatives as well."""

import numpy as np
import pandas as pd


def expected_rates(y_true, positive, groups):
    truth, chosen, codes, names = _checked(y_true, positive, groups)
    rows = []
    for code in range(len(names)):
        actual, q = truth[codes == code], chosen[codes == code]
        rows.append(
            {
                "n": len(q),
                "selection_rate": q.mean(),
                "tpr": q[actual == 1].mean() if (actual == 1).any() else np.nan,
                "fpr": q[actual == 0].mean() if (actual == 0).any() else np.nan,
                "accuracy": q.mean(),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="group"))
