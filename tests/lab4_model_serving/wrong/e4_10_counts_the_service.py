"""The time in the server is given as the wait: its service is counted in."""

import math

import numpy as np


def predict_queue(rate, service_ms):
    seconds = np.asarray(service_ms, np.float64) / 1000
    utilisation = float(rate * seconds.mean())
    wait = math.inf
    if utilisation < 1:
        wait = float(seconds.mean() + rate * (seconds**2).mean() / (2 * (1 - utilisation)))
    return QueuePrediction(float(1 / seconds.mean()), utilisation, 1000 * wait)
