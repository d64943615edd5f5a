"""The covariance term counts once instead of twice."""


def ratio_moments(numerator: Floats, denominator: Floats) -> Moments:
    below = float(denominator.mean())
    ratio = float(numerator.mean()) / below
    (a, ab), (_, b) = np.cov(numerator, denominator)
    return Moments(len(numerator), ratio, float(a - ratio * ab + ratio**2 * b) / below**2)
