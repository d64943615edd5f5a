"""Periods are analysed as independent observations, though blocks were randomised."""

import numpy as np


def switchback_estimate(orders, visits, treated, *, block_length, burn_in=0):
    check_blocks(orders, visits, treated, block_length, burn_in)
    keep = np.arange(len(orders)) % block_length >= burn_in
    arms = np.repeat(treated, block_length)
    return cluster_randomised(orders[keep], visits[keep], arms[keep])
