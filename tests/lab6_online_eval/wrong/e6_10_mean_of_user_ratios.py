"""The mean of each user's own ratio: a user with one session counts as much as one with a hundred."""


def ratio_moments(numerator: Floats, denominator: Floats) -> Moments:
    return Moments.of(numerator / denominator)
