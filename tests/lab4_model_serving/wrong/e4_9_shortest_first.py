"""Always the shortest: the best average, and a long text starves."""


def choose(lengths, *, max_batch, max_waste):
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    chosen = []
    for i in order[:max_batch]:
        rows = [lengths[j] for j in [*chosen, i]]
        if 1 - sum(rows) / (len(rows) * max(rows)) > max_waste:
            break
        chosen.append(i)
    return sorted(chosen)
