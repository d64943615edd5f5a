"""Waste is taken against the longest text that waits: batches stay small for nothing."""


def choose(lengths, *, max_batch, max_waste):
    if not lengths:
        return []
    longest = max(lengths)
    order = sorted(range(1, len(lengths)), key=lambda i: (abs(lengths[i] - lengths[0]), i))
    chosen = [0]
    for i in order:
        rows = [lengths[j] for j in [*chosen, i]]
        if len(rows) <= max_batch and 1 - sum(rows) / (len(rows) * longest) <= max_waste:
            chosen.append(i)
    return sorted(chosen)
