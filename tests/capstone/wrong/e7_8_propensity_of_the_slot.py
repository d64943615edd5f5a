"""The chance that the place explores, not that it shows this item: off by the size of the pool."""

from capstone.exploration import *


def propensities(shown, weights, k):
    m = len(shown.position)
    before = np.searchsorted(shown.position, np.arange(k))
    found = ranked_chance(k, m)[np.arange(k), before].copy()
    found[shown.position] = slot_chance(k, m)[shown.position].sum(axis=1)
    return found
