"""Vectors are scaled to length 1 behind the caller's back, but queries are not."""

import faiss


def build_index(vectors, recipe, *, ids=None, seed=0):
    vectors = normalize(check_vectors(vectors))
    index = new_index(vectors.shape[1], recipe, seed=seed)
    index.train(vectors)
    if ids is None:
        index.add(vectors)
        return index
    ids = check_ids(ids, len(vectors))
    if isinstance(recipe, Flat) or recipe.refine != "none":
        index = faiss.IndexIDMap2(index)
    index.add_with_ids(vectors, ids)
    return index
