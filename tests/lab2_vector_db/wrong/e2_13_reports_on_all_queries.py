"""The reported recall is the mean over all queries, half of which made the choice."""


def choose_setting(trials, held_out, *, target_recall, memory_budget=float("inf")):
    check_trials(trials, held_out, target_recall)
    allowed = [
        trial
        for trial in trials
        if trial.bytes_per_vector <= memory_budget
        and lower_bound(trial.recalls[~held_out]) >= target_recall
    ]
    if not allowed:
        return None
    best = min(allowed, key=lambda trial: (trial.latency_ms, trial.bytes_per_vector))
    return Choice(best, float(best.recalls.mean()), lower_bound(best.recalls))
