"""Where no trial reaches the target, the one that comes nearest is returned as if it did."""


def choose_setting(trials, held_out, *, target_recall, memory_budget=float("inf")):
    check_trials(trials, held_out, target_recall)
    fitting = [trial for trial in trials if trial.bytes_per_vector <= memory_budget]
    if not fitting:
        return None
    allowed = [trial for trial in fitting if lower_bound(trial.recalls[~held_out]) >= target_recall]
    if allowed:
        best = min(allowed, key=lambda trial: (trial.latency_ms, trial.bytes_per_vector))
    else:
        best = max(fitting, key=lambda trial: lower_bound(trial.recalls[~held_out]))
    judged = best.recalls[held_out]
    return Choice(best, float(judged.mean()), lower_bound(judged))
