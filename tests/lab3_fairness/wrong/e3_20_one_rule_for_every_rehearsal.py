"""The rule is chosen once and judged many times: the choice is never rehearsed."""

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
    order = np.random.default_rng(seed).permutation(len(codes))
    first = numbered.rows(order[: len(order) // 2])
    rule = programme(first, target, share, n_bins=n_bins)
    for number in range(repeats):
        order = np.random.default_rng([seed, number]).permutation(len(codes))
        second = numbered.rows(order[len(order) // 2 :])
        results[:, number] = rule.accuracy, *judged(second, decide(first, rule, second))
    return Rehearsal(target, share, *results)
