"""The rule is chosen on all rows, and half of them judge what they chose."""

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
        order = np.random.default_rng([seed, number]).permutation(len(codes))
        half = len(order) // 2
        second = numbered.rows(order[half:])
        rule = programme(numbered, target, share, n_bins=n_bins)
        results[:, number] = rule.accuracy, *judged(second, decide(numbered, rule, second))
    return Rehearsal(target, share, *results)
