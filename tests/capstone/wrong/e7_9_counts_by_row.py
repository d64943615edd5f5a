"""Counts repeats in the order of the rows, not of the values: the best item may be decayed."""

from capstone.creator_decay import *


def decay(value, creator, factor, floor):
    check_decay(factor, floor)
    same = creator[:, None] == creator[None, :]
    earlier = np.tril(same, k=-1).sum(axis=1)
    kept = floor + (1 - floor) * factor**earlier
    return (1 - kept) * np.abs(value)
