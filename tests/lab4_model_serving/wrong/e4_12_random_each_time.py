"""A new draw for every request: one user flips between the versions."""

import random


def choose_version(key, weights, salt):
    check_weights(weights)
    return random.choices(list(weights), list(weights.values()))[0]
