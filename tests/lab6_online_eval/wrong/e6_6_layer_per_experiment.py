"""Each experiment hashes the layer with its own name, so that ranges do not exclude each other."""

import numpy as np


def enrol(
    unit_ids: Texts, experiments: Sequence[Experiment], holdout: Holdout | None = None
) -> dict[str, Ints]:
    check_layers(experiments)
    held = np.zeros(len(unit_ids), dtype=bool) if holdout is None else holdout.holds(unit_ids)
    arms = {}
    for experiment in experiments:
        inside = ~held
        if experiment.layer:
            points = unit_points(unit_ids, experiment.layer + experiment.name)
            low, high = experiment.range
            inside &= (points >= low) & (points < high)
        chosen = assign_many(unit_ids, experiment.name, experiment.weights, experiment.coverage)
        arms[experiment.name] = np.where(inside, chosen, NOT_IN_EXPERIMENT)
    return arms
