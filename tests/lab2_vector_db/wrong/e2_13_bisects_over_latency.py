"""Recall is taken to rise with latency, and the trials are bisected instead of looked at."""


def choose_setting(trials, held_out, *, target_recall, memory_budget=float("inf")):
    check_trials(trials, held_out, target_recall)
    ordered = sorted(
        (trial for trial in trials if trial.bytes_per_vector <= memory_budget),
        key=lambda trial: (trial.latency_ms, trial.bytes_per_vector),
    )
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high) // 2
        if lower_bound(ordered[middle].recalls[~held_out]) >= target_recall:
            high = middle
        else:
            low = middle + 1
    if low == len(ordered):
        return None
    best = ordered[low]
    judged = best.recalls[held_out]
    return Choice(best, float(judged.mean()), lower_bound(judged))
