"""Holds one rank's peak against the memory of all eight GPUs together."""


def choose(ways, budget_bytes):
    return min(
        (each for each in ways if each.peak.total <= 8 * budget_bytes),
        key=lambda each: (each.communicated, each.recomputed, each.offload, each.peak.total),
        default=None,
    )
