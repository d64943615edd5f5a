"""Ranked items get 1: but a slot before them moves them down, so their place is random as well."""

from capstone.exploration import *


def propensities(shown, weights, k):
    m = len(shown.position)
    found = np.ones(k)
    drawn = draw_probabilities(weights, m)[shown.drawn]
    found[shown.position] = (slot_chance(k, m)[shown.position, :m] * drawn).sum(axis=1)
    return found
