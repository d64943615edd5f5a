"""Looks at what was answered only: a version that drops hard requests looks best."""


def decide(new, old, guardrails, *, samples, last, steps=1):
    alpha = guardrails.alpha / (4 * steps)
    checks = []
    for name, bad, n, ceiling in (
        ("p99", "slow", "requests", P99_SHARE),
        ("accuracy", "wrong", "labelled", None),
    ):
        share = confidence_sequence(getattr(new, bad), getattr(new, n), alpha)
        reference = confidence_sequence(getattr(old, bad), getattr(old, n), alpha)
        if ceiling is None:
            low = reference[0] + guardrails.accuracy_margin
            high = reference[1] + guardrails.accuracy_margin
        else:
            low, high = max(ceiling, reference[0]), max(ceiling, reference[1])
        checks.append(Check(name, share, reference, (low, high), judge(share, low, high)))
    found = tuple(checks)
    if new.requests < guardrails.least_samples:
        return Decision("wait", f"{new.requests} of {guardrails.least_samples} requests", found)
    harmful = [check for check in found if check.verdict == "harm"]
    if harmful:
        return Decision("rollback", explain(harmful[0], new, guardrails), found)
    if new.requests < samples:
        return Decision("wait", f"{new.requests} of {samples} requests", found)
    unsure = [check for check in found if check.verdict != "safe"]
    if last and unsure:
        return Decision("wait", explain(unsure[0], new, guardrails), found)
    return Decision("advance", f"{new.requests} requests and no harm shown", found)
