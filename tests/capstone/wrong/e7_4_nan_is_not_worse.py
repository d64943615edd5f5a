"""Fails what is worse than the limit instead of passing what is not; NaN is never worse."""


def judge(candidate, reference, gates=GATES):
    outcomes = []
    for gate in gates:
        value = candidate.get(gate.metric, math.nan)
        if gate.relative:
            base = reference.get(gate.metric, math.nan)
            value = value / base if base > 0 else math.nan
        worse = value < gate.limit if gate.op == ">=" else value > gate.limit
        outcomes.append(Outcome(gate, float(value), not worse))
    return Verdict(tuple(outcomes), dict(candidate), dict(reference))
