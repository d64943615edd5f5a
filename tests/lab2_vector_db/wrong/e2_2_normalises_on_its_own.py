"""Vectors are scaled to length 1 behind the caller's back, but queries are not."""

import faiss

from labs.lab2_vector_db.vectors import normalize


def build_index(vectors, recipe, *, ids=None, seed=0):
    vectors = normalize(check_vectors(vectors))
    index = new_index(vectors.shape[1], recipe, seed=seed)
    index.train(vectors)
    if ids is None:
        index.add(vectors)
        return index
    ids = check_ids(ids, len(vectors))
    if not recipe.keeps_ids:
        index = faiss.IndexIDMap2(index)
    index.add_with_ids(vectors, ids)
    return index
