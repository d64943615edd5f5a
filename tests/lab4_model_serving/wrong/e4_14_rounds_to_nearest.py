"""The ratio is rounded to the nearest: a fleet that stays above its target."""


def desired_replicas(state, signal, policy):
    n = state.replicas
    if signal.value is None:
        return Decision(n, "hold: no reading", state)
    ratio = signal.value / policy.target
    advice = n if abs(ratio - 1) <= policy.tolerance + 1e-12 else int(n * ratio + 0.5)
    advice = min(max(advice, policy.min_replicas), policy.max_replicas)
    recent = [*state.recommendations, (signal.time_s, advice)]
    low = min(a for t, a in recent if t >= signal.time_s - policy.up_window_s)
    high = max(a for t, a in recent if t >= signal.time_s - policy.down_window_s)
    wanted = low if n < low else high if n > high else n
    replicas, reason = limited(wanted, state, signal.time_s, policy)
    return Decision(replicas, reason, remember(state, signal.time_s, advice, replicas, policy))
