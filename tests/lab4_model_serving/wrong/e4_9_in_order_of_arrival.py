"""First come, first served, whatever the length: half of the batch is padding."""


def choose(lengths, *, max_batch, max_waste):
    return list(range(min(len(lengths), max_batch)))
