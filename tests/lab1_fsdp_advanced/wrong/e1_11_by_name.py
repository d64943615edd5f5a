"""Takes the first by name of those that fit."""


def choose(ways, budget_bytes):
    return min(
        (each for each in ways if each.peak.total <= budget_bytes),
        key=lambda each: each.name,
        default=None,
    )
