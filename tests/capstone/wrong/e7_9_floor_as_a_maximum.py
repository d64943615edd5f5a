"""max(floor, factor ** r): the floor cuts the decay off instead of being approached."""

from capstone.creator_decay import *


def decay(value, creator, factor, floor):
    check_decay(factor, floor)
    kept = np.maximum(floor, factor ** repeats(value, creator))
    return (1 - kept) * np.abs(value)
