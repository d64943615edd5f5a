"""The best of the short trials is the result: nothing is measured again."""

import numpy as np


def search_rate(measure, confirm, slo, *, low, high, precision=0.05, confirmations=4):
    trials, confirmed = [], []

    def judged(run, rate):
        result = run(rate, len(trials) + len(confirmed))
        held = result.summary.p99_ms < slo.p99_ms and result.failed_share <= slo.failed_share
        return Trial(rate, result, held)

    trials.append(judged(measure, low))
    if not trials[-1].held:
        return FoundRate(None, False, tuple(trials), ())
    trials.append(judged(measure, high))
    holds, misses = (high, high) if trials[-1].held else (low, high)
    while misses / holds > 1 + precision:
        middle = float(np.sqrt(holds * misses))
        trials.append(judged(measure, middle))
        if trials[-1].held:
            holds = middle
        else:
            misses = middle
    best = max((trial for trial in trials if trial.held), key=lambda trial: trial.rate)
    return FoundRate(best, best.rate == high, tuple(trials), (best,))
