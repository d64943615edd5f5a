"""Each slot as if drawn first: ignores that an item drawn for one slot is gone for the next."""

from capstone.exploration import *


def propensities(shown, weights, k):
    m = len(shown.position)
    before = np.searchsorted(shown.position, np.arange(k))
    found = ranked_chance(k, m)[np.arange(k), before].copy()
    chance = slot_chance(k, m)[shown.position].sum(axis=1)
    found[shown.position] = chance * weights[shown.drawn]
    return found
