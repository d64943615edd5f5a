"""No burn-in: the periods that still show the block before are counted."""

import numpy as np


def switchback_estimate(orders, visits, treated, *, block_length, burn_in=0):
    check_blocks(orders, visits, treated, block_length, burn_in)
    totals, sizes = block_sums(orders, visits, block_length, 0)
    return cluster_randomised(totals, sizes, treated)
