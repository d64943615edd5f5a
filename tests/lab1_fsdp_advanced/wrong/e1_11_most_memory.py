"""Fills the budget: memory that is used makes no step faster."""


def choose(ways, budget_bytes):
    return max(
        (each for each in ways if each.peak.total <= budget_bytes),
        key=lambda each: each.peak.total,
        default=None,
    )
