"""The formula of M/M/1: the wait of constant service comes out twice as long."""

import math

import numpy as np


def predict_queue(rate, service_ms):
    mean = float(np.mean(np.asarray(service_ms, np.float64))) / 1000
    utilisation = rate * mean
    wait = utilisation * mean / (1 - utilisation) if utilisation < 1 else math.inf
    return QueuePrediction(1 / mean, utilisation, 1000 * wait)
