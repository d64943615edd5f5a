"""Every run has the same arrivals, so the confirming one repeats the luck of the trials."""

import numpy as np


def search_rate(measure, confirm, slo, *, low, high, precision=0.05, confirmations=4):
    trials, confirmed = [], []

    def judged(run, rate):
        result = run(rate, 0)
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
    rate = holds
    while len(confirmed) < confirmations and rate >= low:
        confirmed.append(judged(confirm, rate))
        if confirmed[-1].held:
            break
        rate /= 1 + precision
    best = confirmed[-1] if confirmed and confirmed[-1].held else None
    return FoundRate(best, best is not None and best.rate == high, tuple(trials), tuple(confirmed))
