"""The weighted sum is divided by n: IPW, which can leave the range of the rewards."""


def snipw(
    reward: Floats, logged: Floats, target: Floats, *, least_ess: float = LEAST_ESS
) -> SelfNormalised:
    weights = importance_weights(logged, target)
    require(bool(weights.any()), "sum of the weights", 0.0, "must be > 0", "no logged action fits")
    total = weights.sum()
    ess = float(total**2 / (weights**2).sum())
    if ess < least_ess:
        return SelfNormalised(None, None, ess)
    value = float((weights * reward).mean())
    se = float(np.sqrt((weights**2 * (reward - value) ** 2).sum()) / total)
    return SelfNormalised(value, se, ess)
