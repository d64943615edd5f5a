"""The advice of the moment is followed: no hysteresis, so noise becomes starts and stops."""


def desired_replicas(state, signal, policy):
    n = state.replicas
    if signal.value is None:
        return Decision(n, "hold: no reading", state)
    ratio = signal.value / policy.target
    advice = n if abs(ratio - 1) <= policy.tolerance + 1e-12 else ceil(n * ratio)
    advice = min(max(advice, policy.min_replicas), policy.max_replicas)
    replicas, reason = limited(advice, state, signal.time_s, policy)
    return Decision(replicas, reason, remember(state, signal.time_s, advice, replicas, policy))
