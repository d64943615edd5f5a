"""A rate per second is multiplied by milliseconds: everything seems overloaded."""

import math

import numpy as np


def predict_queue(rate, service_ms):
    times = np.asarray(service_ms, np.float64)
    utilisation = float(rate * times.mean())
    wait = math.inf
    if utilisation < 1:
        wait = float(rate * (times**2).mean() / (2 * (1 - utilisation)))
    return QueuePrediction(float(1 / times.mean()), utilisation, wait)
