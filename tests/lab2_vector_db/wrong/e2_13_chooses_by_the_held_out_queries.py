"""Trials are allowed for what they do on the held-out queries, which then judge themselves."""


def choose_setting(trials, held_out, *, target_recall, memory_budget=float("inf")):
    check_trials(trials, held_out, target_recall)
    allowed = [
        trial
        for trial in trials
        if trial.bytes_per_vector <= memory_budget
        and lower_bound(trial.recalls[held_out]) >= target_recall
    ]
    if not allowed:
        return None
    best = min(allowed, key=lambda trial: (trial.latency_ms, trial.bytes_per_vector))
    judged = best.recalls[held_out]
    return Choice(best, float(judged.mean()), lower_bound(judged))
