"""The squared standard error stands where the variance of one unit belongs: n too small."""


def half_width(
    se: ArrayLike, n: ArrayLike, *, tuned_for: float = 1000.0, alpha: float = 0.05
) -> Floats:
    error, units = _checked(se, n)
    rho2 = mixing_rho(tuned_for, alpha) ** 2
    grown = units * rho2 + 1
    squared = error**2 * 2 * grown / (units**2 * rho2) * np.log(np.sqrt(grown) / alpha)
    return np.asarray(np.sqrt(squared))
