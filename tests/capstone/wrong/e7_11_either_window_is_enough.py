"""Fires when either window burns: a blip pages, and the page stays long after the repair."""

import numpy as np


def budget_burns(bad_long, total_long, bad_short, total_short, *, threshold, budget, least):
    def burn(bad, total):
        asked = np.asarray(total, dtype=float)
        share = np.divide(
            np.asarray(bad, dtype=float), asked, out=np.zeros(asked.shape), where=asked > 0
        )
        return share / budget

    long, short = burn(bad_long, total_long), burn(bad_short, total_short)
    return ((long > threshold) | (short > threshold)) & (np.asarray(total_long) >= least)
