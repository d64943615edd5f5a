"""Every rehearsal starts the generator anew, so all of them are one."""

import numpy as np


def rehearse(
    validation,
    target,
    share,
    *,
    decide=lottery,
    repeats=100,
    n_bins=BINS,
    seed=0,
):
    codes, _ = group_codes(validation.groups, len(validation.labels))
    numbered = ScoredRows(validation.scores, validation.labels, codes)
    results = np.empty((4, repeats))
    for number in range(repeats):
        order = np.random.default_rng(seed).permutation(len(codes))
        half = len(order) // 2
        first, second = numbered.rows(order[:half]), numbered.rows(order[half:])
        rule = programme(first, target, share, n_bins=n_bins)
        results[:, number] = rule.accuracy, *judged(second, decide(first, rule, second))
    return Rehearsal(target, share, *results)
