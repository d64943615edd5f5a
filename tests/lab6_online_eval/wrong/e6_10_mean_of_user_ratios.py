"""The mean of each user's own ratio: one session of a user counts as much as a hundred."""


def ratio_moments(numerator: Floats, denominator: Floats) -> Moments:
    return Moments.of(numerator / denominator)
