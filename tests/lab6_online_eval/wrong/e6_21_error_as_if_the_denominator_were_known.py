"""The standard error of the mean of w r: the spread of the denominator is forgotten."""


def snipw(
    reward: Floats, logged: Floats, target: Floats, *, least_ess: float = LEAST_ESS
) -> SelfNormalised:
    weights = importance_weights(logged, target)
    require(bool(weights.any()), "sum of the weights", 0.0, "must be > 0", "no logged action fits")
    total = weights.sum()
    ess = float(total**2 / (weights**2).sum())
    if ess < least_ess:
        return SelfNormalised(None, None, ess)
    value = float((weights * reward).sum() / total)
    se = float((weights * reward).std(ddof=1) / np.sqrt(len(weights)))
    return SelfNormalised(value, se, ess)
