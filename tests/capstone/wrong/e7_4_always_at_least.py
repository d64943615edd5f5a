"""Looks for at least the limit, whatever the operator: a larger calibration error passes."""


def judge(candidate, reference, gates=GATES):
    outcomes = []
    for gate in gates:
        value = candidate.get(gate.metric, math.nan)
        if gate.relative:
            base = reference.get(gate.metric, math.nan)
            value = value / base if math.isfinite(base) and base > 0 else math.nan
        passed = math.isfinite(value) and value >= gate.limit
        outcomes.append(Outcome(gate, float(value), bool(passed)))
    return Verdict(tuple(outcomes), dict(candidate), dict(reference))
