"""A reference that is missing or 0 counts as 1, so a ratio to nothing can pass."""


def judge(candidate, reference, gates=GATES):
    outcomes = []
    for gate in gates:
        value = candidate.get(gate.metric, math.nan)
        if gate.relative:
            base = reference.get(gate.metric, 0.0)
            value = value / base if math.isfinite(base) and base != 0 else 1.0
        right_side = value >= gate.limit if gate.op == ">=" else value <= gate.limit
        outcomes.append(Outcome(gate, float(value), bool(math.isfinite(value) and right_side)))
    return Verdict(tuple(outcomes), dict(candidate), dict(reference))
