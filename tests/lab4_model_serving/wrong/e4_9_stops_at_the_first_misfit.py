"""Takes from the front until the bound is broken: what fits further back waits."""


def choose(lengths, *, max_batch, max_waste):
    chosen = []
    for i in range(min(len(lengths), max_batch)):
        rows = [lengths[j] for j in [*chosen, i]]
        if 1 - sum(rows) / (len(rows) * max(rows)) > max_waste:
            break
        chosen.append(i)
    return chosen
