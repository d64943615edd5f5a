"""Distance counts length as well as direction: a rare word is far from its frequent synonym."""

import numpy as np


def nearest_words(vectors, queries, candidates, k):
    apart = np.linalg.norm(vectors[queries][:, None] - vectors[candidates], axis=2)
    apart[queries[:, None] == candidates] = np.inf
    return candidates[np.argsort(apart, axis=1, kind="stable")[:, :k]]
