"""The holdout is drawn anew in each experiment."""

import numpy as np


def enrol(
    unit_ids: Texts, experiments: Sequence[Experiment], holdout: Holdout | None = None
) -> dict[str, Ints]:
    check_layers(experiments)
    arms = {}
    for experiment in experiments:
        inside = np.ones(len(unit_ids), dtype=bool)
        if holdout is not None:
            inside &= unit_points(unit_ids, holdout.name + experiment.name) >= holdout.share
        if experiment.layer:
            points = unit_points(unit_ids, experiment.layer)
            low, high = experiment.range
            inside &= (points >= low) & (points < high)
        chosen = assign_many(unit_ids, experiment.name, experiment.weights, experiment.coverage)
        arms[experiment.name] = np.where(inside, chosen, NOT_IN_EXPERIMENT)
    return arms
