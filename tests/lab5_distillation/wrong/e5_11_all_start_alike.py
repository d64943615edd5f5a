"""Each generation asks for the weights of generation 0, so they make the same mistakes."""


def generations(maker, learn, n):
    require(n >= 1, "n", n, "must be at least 1")
    found = []
    for generation in range(n):
        model = maker(0)
        learn(model, found[-1] if found else None, generation)
        found.append(model)
    return found
