"""The covariance term is left out, as though clicks and sessions of a user were independent."""


def ratio_moments(numerator: Floats, denominator: Floats) -> Moments:
    below = float(denominator.mean())
    ratio = float(numerator.mean()) / below
    variance = numerator.var(ddof=1) + ratio**2 * denominator.var(ddof=1)
    return Moments(len(numerator), ratio, float(variance) / below**2)
