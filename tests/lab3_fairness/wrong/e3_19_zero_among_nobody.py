"""A rate among nobody is written as 0."""

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
                "tpr": q[actual == 1].mean() if (actual == 1).any() else 0.0,
                "fpr": q[actual == 0].mean() if (actual == 0).any() else 0.0,
                "accuracy": np.where(actual == 1, q, 1 - q).mean(),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="group"))
