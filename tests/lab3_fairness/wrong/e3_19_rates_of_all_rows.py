"""TPR and FPR are shares of all rows of the group, not of its positives and negatives."""

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
                "tpr": q[actual == 1].sum() / len(q),
                "fpr": q[actual == 0].sum() / len(q),
                "accuracy": np.where(actual == 1, q, 1 - q).mean(),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="group"))
