"""The memory budget is not looked at, so the graph over exact vectors always wins."""


def choose_setting(trials, held_out, *, target_recall, memory_budget=float("inf")):
    check_trials(trials, held_out, target_recall)
    allowed = [trial for trial in trials if lower_bound(trial.recalls[~held_out]) >= target_recall]
    if not allowed:
        return None
    best = min(allowed, key=lambda trial: (trial.latency_ms, trial.bytes_per_vector))
    judged = best.recalls[held_out]
    return Choice(best, float(judged.mean()), lower_bound(judged))
