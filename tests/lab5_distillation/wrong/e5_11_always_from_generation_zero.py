"""Every later generation learns from generation 0, so nothing is passed on."""


def generations(maker, learn, n):
    require(n >= 1, "n", n, "must be at least 1")
    found = []
    for generation in range(n):
        model = maker(generation)
        learn(model, found[0] if found else None, generation)
        found.append(model)
    return found
