"""One threshold, at which the rate is reached among all people together: blind, not equal."""

import numpy as np


def equal_opportunity_thresholds(credit, true_positive_rate):
    require(
        0 <= true_positive_rate <= 1, "true_positive_rate", true_positive_rate, "must be 0 to 1"
    )
    good = ((credit.mass * credit.repay) @ credit.population)[::-1]
    reached = np.cumsum(good) / good.sum()
    step = int(np.argmax(reached >= true_positive_rate - 1e-12))
    width = good[step] / good.sum()
    share = (true_positive_rate - (reached[step] - width)) / width if width > 0 else 0.0
    n = len(credit.groups)
    return Thresholds(
        np.full(n, credit.scores[::-1][step]), np.full(n, float(np.clip(share, 0, 1)))
    )
