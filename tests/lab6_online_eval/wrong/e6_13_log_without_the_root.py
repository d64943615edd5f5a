"""The logarithm is of n rho^2 + 1 over alpha, not of its root: too wide."""


def half_width(
    se: ArrayLike, n: ArrayLike, *, tuned_for: float = 1000.0, alpha: float = 0.05
) -> Floats:
    error, units = _checked(se, n)
    rho2 = mixing_rho(tuned_for, alpha) ** 2
    grown = units * rho2 + 1
    squared = units * error**2 * 2 * grown / (units**2 * rho2) * np.log(grown / alpha)
    return np.asarray(np.sqrt(squared))
