"""The trial with the most recall is chosen, whatever it costs in latency."""


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
    best = max(allowed, key=lambda trial: lower_bound(trial.recalls[~held_out]))
    judged = best.recalls[held_out]
    return Choice(best, float(judged.mean()), lower_bound(judged))
