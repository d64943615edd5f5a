"""Both halves are drawn with replacement from all rows, so that they share some."""

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
        rng = np.random.default_rng([seed, number])
        half = len(codes) // 2
        first = numbered.rows(rng.integers(len(codes), size=half))
        second = numbered.rows(rng.integers(len(codes), size=half))
        rule = programme(first, target, share, n_bins=n_bins)
        results[:, number] = rule.accuracy, *judged(second, decide(first, rule, second))
    return Rehearsal(target, share, *results)
