"""The denominator is taken for a constant: only the numerator's variance counts."""


def ratio_moments(numerator: Floats, denominator: Floats) -> Moments:
    below = float(denominator.mean())
    variance = float(numerator.var(ddof=1)) / below**2
    return Moments(len(numerator), float(numerator.mean()) / below, variance)
