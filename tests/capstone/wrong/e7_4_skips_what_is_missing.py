"""Leaves out gates whose metric was not measured, so an evaluation that crashed passes."""


def judge(candidate, reference, gates=GATES):
    outcomes = []
    for gate in gates:
        if gate.metric not in candidate:
            continue
        value = candidate[gate.metric]
        if gate.relative:
            base = reference.get(gate.metric, math.nan)
            value = value / base if math.isfinite(base) and base > 0 else math.nan
        right_side = value >= gate.limit if gate.op == ">=" else value <= gate.limit
        outcomes.append(Outcome(gate, float(value), bool(math.isfinite(value) and right_side)))
    return Verdict(tuple(outcomes), dict(candidate), dict(reference))
