"""A point estimate below the margin is taken for a loss, though the interval holds zero."""


def next_action(step, evidence, *, last, margin=0.0):
    low, high = evidence.success
    harmed = [name for name, verdict in evidence.guardrails.items() if verdict == "harm"]
    if harmed:
        return Decision("rollback", f"harm: {', '.join(harmed)}")
    if (low + high) / 2 < -margin:
        return Decision("rollback", f"a loss of clicks is certain: {low:+.3f} to {high:+.3f}")
    enough = evidence.feeds >= step.feeds
    if enough and not last:
        return Decision("advance", f"{evidence.feeds} feeds and no harm")
    open_ = [name for name, verdict in evidence.guardrails.items() if verdict != "safe"]
    if enough and not open_ and low > -margin:
        return Decision("advance", f"all guardrails safe, clicks {low:+.3f} to {high:+.3f}")
    missing = f"{evidence.feeds} of {step.feeds} feeds"
    if enough:
        what = [f"{name} not shown safe" for name in open_]
        what += [] if low > -margin else [f"clicks {low:+.3f} to {high:+.3f}"]
        missing = "; ".join(what)
    if evidence.looks >= step.looks:
        return Decision("rollback", f"given up after {evidence.looks} looks: {missing}")
    return Decision("wait", missing)
