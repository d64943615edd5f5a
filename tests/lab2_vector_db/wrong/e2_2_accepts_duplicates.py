"""faiss is trusted to check ids; it stores an id twice without a word."""

import faiss
import numpy as np


def build_index(vectors, recipe, *, ids=None, seed=0):
    vectors = check_vectors(vectors)
    index = new_index(vectors.shape[1], recipe, seed=seed)
    index.train(vectors)
    if ids is None:
        index.add(vectors)
        return index
    if not recipe.keeps_ids:
        index = faiss.IndexIDMap2(index)
    index.add_with_ids(vectors, np.ascontiguousarray(ids, dtype=np.int64))
    return index
