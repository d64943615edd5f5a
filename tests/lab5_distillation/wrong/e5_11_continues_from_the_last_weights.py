"""A generation starts as a copy of the last one: longer training, not a new generation."""

import copy


def generations(maker, learn, n):
    require(n >= 1, "n", n, "must be at least 1")
    found = []
    for generation in range(n):
        model = copy.deepcopy(found[-1]) if found else maker(generation)
        learn(model, found[-1] if found else None, generation)
        found.append(model)
    return found
