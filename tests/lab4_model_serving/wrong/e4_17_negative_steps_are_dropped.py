"""A negative step counts as 0: what came between the restart and the next scrape is lost."""

import numpy as np


def merged_increase(replicas):
    total = np.zeros(replicas[0].shape[1])
    for counters in replicas:
        steps = np.diff(counters, axis=0)
        restarted = steps < 0
        total += np.maximum(steps, 0).sum(axis=0)
    return total
