"""log(sqrt(n rho^2 + 1)) - log(1 - alpha): the error rate does not widen the interval."""


def half_width(
    se: ArrayLike, n: ArrayLike, *, tuned_for: float = 1000.0, alpha: float = 0.05
) -> Floats:
    error, units = _checked(se, n)
    rho2 = mixing_rho(tuned_for, alpha) ** 2
    grown = units * rho2 + 1
    logarithm = np.log(np.sqrt(grown) / (1 - alpha))
    squared = units * error**2 * 2 * grown / (units**2 * rho2) * logarithm
    return np.asarray(np.sqrt(squared))
