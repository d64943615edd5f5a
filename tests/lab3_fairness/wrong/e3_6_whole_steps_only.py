"""Everybody at the threshold is accepted: each group lands somewhere above the target."""

import numpy as np


def equal_opportunity_thresholds(credit, true_positive_rate):
    require(
        0 <= true_positive_rate <= 1, "true_positive_rate", true_positive_rate, "must be 0 to 1"
    )
    good = (credit.mass * credit.repay)[::-1]
    reached = np.cumsum(good, axis=0) / good.sum(axis=0)
    step = np.argmax(reached >= true_positive_rate - 1e-12, axis=0)
    return Thresholds(credit.scores[::-1][step], np.ones(len(credit.groups)))
