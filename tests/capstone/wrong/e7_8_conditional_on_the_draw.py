"""The chance given what was drawn before: conditional, where an estimate needs the marginal."""

from capstone.exploration import *


def propensities(shown, weights, k):
    m = len(shown.position)
    before = np.searchsorted(shown.position, np.arange(k))
    found = ranked_chance(k, m)[np.arange(k), before].copy()
    chosen = weights[shown.drawn]
    drawn = chosen / (1 - np.concatenate([[0.0], np.cumsum(chosen)[:-1]]))
    found[shown.position] = slot_chance(k, m)[shown.position].sum(axis=1) * drawn
    return found
