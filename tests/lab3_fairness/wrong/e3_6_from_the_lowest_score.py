"""The rate is counted from the lowest score up: what is reached is the miss rate, 1 - TPR."""

import numpy as np


def equal_opportunity_thresholds(credit, true_positive_rate):
    require(
        0 <= true_positive_rate <= 1, "true_positive_rate", true_positive_rate, "must be 0 to 1"
    )
    good = credit.mass * credit.repay
    reached = np.cumsum(good, axis=0) / good.sum(axis=0)
    step = np.argmax(reached >= true_positive_rate - 1e-12, axis=0)
    columns = np.arange(len(credit.groups))
    width = (good / good.sum(axis=0))[step, columns]
    before = reached[step, columns] - width
    share = np.divide(true_positive_rate - before, width, out=np.zeros_like(width), where=width > 0)
    return Thresholds(credit.scores[step], np.clip(share, 0, 1))
