"""Each rank shuffles with a seed of its own: some windows twice an epoch, others never."""

import numpy as np
from numpy.typing import NDArray


def rank_indices(
    step: int, rank: int, world: int, *, windows: int, global_batch: int, seed: int
) -> NDArray[np.int64]:
    share = global_batch // world
    positions = step * share + np.arange(share)
    epochs, places = np.divmod(positions, windows)
    return np.array(
        [epoch_order(seed + rank, int(e), windows)[p] for e, p in zip(epochs, places)],
        dtype=np.int64,
    )
