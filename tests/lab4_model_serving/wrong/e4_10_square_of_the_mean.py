"""The mean is squared instead of the times: variable service looks like constant service."""

import math

import numpy as np


def predict_queue(rate, service_ms):
    seconds = np.asarray(service_ms, np.float64) / 1000
    mean = float(seconds.mean())
    utilisation = rate * mean
    wait = math.inf
    if utilisation < 1:
        wait = rate * mean**2 / (2 * (1 - utilisation))
    return QueuePrediction(1 / mean, utilisation, 1000 * wait)
