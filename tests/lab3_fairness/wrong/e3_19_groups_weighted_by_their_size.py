"""Each group is divided by the rows of everybody, so that a small group's rates are small."""

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
                "selection_rate": q.sum() / len(chosen),
                "tpr": q[actual == 1].sum() / truth.sum() if (actual == 1).any() else np.nan,
                "fpr": q[actual == 0].sum() / (1 - truth).sum() if (actual == 0).any() else np.nan,
                "accuracy": np.where(actual == 1, q, 1 - q).mean(),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="group"))
