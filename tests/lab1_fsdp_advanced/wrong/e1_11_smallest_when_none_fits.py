"""Takes the smallest when none fits: the run dies of it an hour later, on the largest batch."""


def choose(ways, budget_bytes):
    if not ways:
        return None
    fit = [each for each in ways if each.peak.total <= budget_bytes]
    if not fit:
        return min(ways, key=lambda each: each.peak.total)
    return min(
        fit, key=lambda each: (each.communicated, each.recomputed, each.offload, each.peak.total)
    )
