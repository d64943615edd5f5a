"""The scale of numpy's exponential is the mean gap, 1 / rate, and not the rate."""

import numpy as np


def poisson_schedule(rate, seconds, seed):
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(rate, size=int(2 * rate * seconds) + 100))
    return arrivals[arrivals < seconds]
