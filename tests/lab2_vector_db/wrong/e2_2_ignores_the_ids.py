"""add() in place of add_with_ids(): the search answers with row numbers."""

import numpy as np


def build_index(vectors, recipe, *, ids=None, seed=0):
    vectors = check_vectors(vectors)
    if ids is not None:
        check_ids(ids, len(vectors))
    index = new_index(vectors.shape[1], recipe, seed=seed)
    index.train(vectors)
    index.add(vectors)
    return index
