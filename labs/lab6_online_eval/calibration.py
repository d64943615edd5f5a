"""Does the test keep its promise on real people: A/A tests of MovieLens users, hashed anew each.

`validation` tries methods on simulated truth; here the users and the metric are real, and only the
arms are drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labs.lab6_online_eval.assignment import assign_many
from labs.lab6_online_eval.significance import compare
from labs.lab6_online_eval.srm import srm_test

Floats = NDArray[np.float64]


def aa_p_values(
    unit_ids: NDArray[np.str_],
    metric: Floats,
    experiments: list[str],
    *,
    covariate: Floats | None = None,
    lift: float = 0.0,
) -> tuple[Floats, Floats]:
    """p-values of experiments on the same units, in which treatment adds ``lift`` (0: A/A).

    Each experiment hashes the units into two halves under its own name and compares the halves.

    Parameters
    ----------
    unit_ids, metric
        Text [n] and float [n].
    experiments
        Names, one a test.
    covariate
        Float [n]: compare with CUPED.
    lift
        Added to the metric of the treated units; a simulated effect.

    Returns
    -------
    (p, srm_p)
        float [len(experiments)] each.
    """
    results = []
    for experiment in experiments:
        treated = assign_many(unit_ids, experiment, [0.5, 0.5]) == 1
        srm = srm_test([int((~treated).sum()), int(treated.sum())], [0.5, 0.5])
        outcome = compare(
            metric[~treated],
            metric[treated] + lift,
            control_covariate=None if covariate is None else covariate[~treated],
            treatment_covariate=None if covariate is None else covariate[treated],
        )
        results.append((outcome.p, srm.p))
    p, srm_p = np.array(results).T
    return p, srm_p


def share_below(p: Floats, alpha: float) -> tuple[float, int]:
    """Share of p-values below ``alpha``, and their number."""
    below = int(np.count_nonzero(p < alpha))
    return below / len(p), below
