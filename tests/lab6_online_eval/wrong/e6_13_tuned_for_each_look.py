"""rho follows n, so that every look is the one that the sequence is narrowest at."""


def half_width(
    se: ArrayLike, n: ArrayLike, *, tuned_for: float = 1000.0, alpha: float = 0.05
) -> Floats:
    error, units = _checked(se, n)
    rho2 = np.array([mixing_rho(float(k), alpha) ** 2 for k in np.atleast_1d(units)])
    rho2 = rho2.reshape(units.shape)
    grown = units * rho2 + 1
    squared = units * error**2 * 2 * grown / (units**2 * rho2) * np.log(np.sqrt(grown) / alpha)
    return np.asarray(np.sqrt(squared))
