"""FULL_SHARD whenever it fits: it needs least, and gathers every block a second time."""


def choose(ways, budget_bytes):
    return min(
        (each for each in ways if each.peak.total <= budget_bytes),
        key=lambda each: (
            each.strategy != "FULL_SHARD",
            each.communicated,
            each.recomputed,
            each.offload,
            each.peak.total,
        ),
        default=None,
    )
