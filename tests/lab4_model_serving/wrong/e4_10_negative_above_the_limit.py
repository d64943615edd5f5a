"""The formula is used beyond the limit, where it turns negative."""

import math

import numpy as np


def predict_queue(rate, service_ms):
    seconds = np.asarray(service_ms, np.float64) / 1000
    utilisation = float(rate * seconds.mean())
    free = 1 - utilisation
    wait = float(rate * (seconds**2).mean() / (2 * free)) if free else math.inf
    return QueuePrediction(float(1 / seconds.mean()), utilisation, 1000 * wait)
