"""Begins each epoch with a new batch: the windows left over are never read."""

import numpy as np
from numpy.typing import NDArray


def rank_indices(
    step: int, rank: int, world: int, *, windows: int, global_batch: int, seed: int
) -> NDArray[np.int64]:
    batches = max(1, windows // global_batch)
    epoch, batch = divmod(step, batches)
    places = (batch * global_batch + np.arange(rank, global_batch, world)) % windows
    return epoch_order(seed, epoch, windows)[places]
