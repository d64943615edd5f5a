"""Cuts the data set into one part a rank: the global batch depends on the ranks."""

import numpy as np
from numpy.typing import NDArray


def rank_indices(
    step: int, rank: int, world: int, *, windows: int, global_batch: int, seed: int
) -> NDArray[np.int64]:
    share, mine = global_batch // world, np.arange(windows)[rank::world]
    if len(mine) == 0:
        mine = np.arange(windows)
    positions = step * share + np.arange(share)
    epochs, places = np.divmod(positions, len(mine))
    return np.array(
        [mine[epoch_order(seed, int(e), len(mine))[p]] for e, p in zip(epochs, places)],
        dtype=np.int64,
    )
