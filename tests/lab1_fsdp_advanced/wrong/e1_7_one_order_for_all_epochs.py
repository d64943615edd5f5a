"""Shuffles without the epoch, like a sampler whose set_epoch was forgotten."""

import numpy as np
from numpy.typing import NDArray


def rank_indices(
    step: int, rank: int, world: int, *, windows: int, global_batch: int, seed: int
) -> NDArray[np.int64]:
    positions = step * global_batch + np.arange(rank, global_batch, world)
    return epoch_order(seed, 0, windows)[positions % windows]
