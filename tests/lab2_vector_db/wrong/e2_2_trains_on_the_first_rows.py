"""Training takes the first rows to save time; sorted data makes them one corner of the space."""

import faiss


def build_index(vectors, recipe, *, ids=None, seed=0):
    vectors = check_vectors(vectors)
    index = new_index(vectors.shape[1], recipe, seed=seed)
    index.train(vectors[: max(100, len(vectors) // 10)])
    if ids is None:
        index.add(vectors)
        return index
    ids = check_ids(ids, len(vectors))
    if not recipe.keeps_ids:
        index = faiss.IndexIDMap2(index)
    index.add_with_ids(vectors, ids)
    return index
