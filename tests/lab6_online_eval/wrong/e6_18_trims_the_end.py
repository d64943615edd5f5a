"""The last periods of a block are left out instead of the first."""

import numpy as np


def switchback_estimate(orders, visits, treated, *, block_length, burn_in=0):
    check_blocks(orders, visits, treated, block_length, burn_in)
    keep = block_length - burn_in
    totals = orders.reshape(-1, block_length)[:, :keep].sum(axis=1)
    sizes = visits.reshape(-1, block_length)[:, :keep].sum(axis=1)
    return cluster_randomised(totals, sizes, treated)
