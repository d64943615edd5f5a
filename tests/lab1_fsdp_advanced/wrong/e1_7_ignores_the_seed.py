"""Shuffles with a fixed seed: two runs meant to differ read the same stream."""

import numpy as np
from numpy.typing import NDArray


def rank_indices(
    step: int, rank: int, world: int, *, windows: int, global_batch: int, seed: int
) -> NDArray[np.int64]:
    positions = step * global_batch + np.arange(rank, global_batch, world)
    epochs, places = np.divmod(positions, windows)
    return np.array(
        [epoch_order(0, int(e), windows)[p] for e, p in zip(epochs, places)], dtype=np.int64
    )
