"""Multiplies the value: of a negative one half is left, so what people hide is promoted."""

from capstone.creator_decay import *


def decay(value, creator, factor, floor):
    check_decay(factor, floor)
    kept = floor + (1 - floor) * factor ** repeats(value, creator)
    return (1 - kept) * value
