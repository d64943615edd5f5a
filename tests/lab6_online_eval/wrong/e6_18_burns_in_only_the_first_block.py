"""The burn-in is taken once, from the start of the experiment, and not from each block."""

import numpy as np


def switchback_estimate(orders, visits, treated, *, block_length, burn_in=0):
    check_blocks(orders, visits, treated, block_length, burn_in)
    orders, visits = np.array(orders), np.array(visits)
    orders[:burn_in] = visits[:burn_in] = 0.0
    totals, sizes = block_sums(orders, visits, block_length, 0)
    return cluster_randomised(totals, sizes, treated)
