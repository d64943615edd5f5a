"""The blocks' own rates are averaged, so a quiet night counts as much as a busy evening."""

import numpy as np


def switchback_estimate(orders, visits, treated, *, block_length, burn_in=0):
    check_blocks(orders, visits, treated, block_length, burn_in)
    totals, sizes = block_sums(orders, visits, block_length, burn_in)
    return cluster_randomised(totals / sizes, np.ones(len(sizes)), treated)
