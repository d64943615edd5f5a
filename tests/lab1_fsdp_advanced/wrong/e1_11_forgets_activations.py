"""Holds weights, gradients and moments against the budget, not the activations."""


def choose(ways, budget_bytes):
    return min(
        (
            each
            for each in ways
            if each.peak.parameters + each.peak.gradients + each.peak.optimizer <= budget_bytes
        ),
        key=lambda each: (each.communicated, each.recomputed, each.offload, each.peak.total),
        default=None,
    )
