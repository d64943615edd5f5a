"""The 95 % interval of one look, at every look: peeking."""

from scipy.stats import norm


def half_width(
    se: ArrayLike, n: ArrayLike, *, tuned_for: float = 1000.0, alpha: float = 0.05
) -> Floats:
    error, units = _checked(se, n)
    return np.asarray(norm.isf(alpha / 2) * error * np.ones_like(units))
