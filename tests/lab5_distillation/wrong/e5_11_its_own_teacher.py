"""The model is among the generations before it learns, and so it is its own teacher."""


def generations(maker, learn, n):
    require(n >= 1, "n", n, "must be at least 1")
    found = []
    for generation in range(n):
        found.append(maker(generation))
        learn(found[-1], found[-1] if generation else None, generation)
    return found
