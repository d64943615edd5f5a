"""Each metric gets replicates of its own: metrics of one replicate are of different samples."""

import numpy as np


def bootstrap_from_counts(counts, values, counted, *, n_boot=1000, seed=0):
    rng = np.random.default_rng(seed)
    sizes = counts.sum(axis=1)
    shares = counts / sizes[:, np.newaxis]
    each = [
        rates(rng.multinomial(sizes, shares, size=(n_boot, len(sizes))), [value], [where])
        for value, where in zip(values, counted)
    ]
    return np.concatenate(each, axis=-1)
