"""Without a tolerance a fleet at 101 % of its target starts another replica."""


def desired_replicas(state, signal, policy):
    n = state.replicas
    if signal.value is None:
        return Decision(n, "hold: no reading", state)
    ratio = signal.value / policy.target
    advice = ceil(n * ratio)
    advice = min(max(advice, policy.min_replicas), policy.max_replicas)
    recent = [*state.recommendations, (signal.time_s, advice)]
    low = min(a for t, a in recent if t >= signal.time_s - policy.up_window_s)
    high = max(a for t, a in recent if t >= signal.time_s - policy.down_window_s)
    wanted = low if n < low else high if n > high else n
    replicas, reason = limited(wanted, state, signal.time_s, policy)
    return Decision(replicas, reason, remember(state, signal.time_s, advice, replicas, policy))
