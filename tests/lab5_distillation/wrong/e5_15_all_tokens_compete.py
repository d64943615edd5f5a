"""Every token of the vocabulary may be a neighbour, parts of words and marks too."""

import numpy as np


def nearest_words(vectors, queries, candidates, k):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    score = unit[queries] @ unit.T
    score[np.arange(len(queries)), queries] = -np.inf
    return np.argsort(-score, axis=1, kind="stable")[:, :k]
