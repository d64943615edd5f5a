"""Each session is one independent trial: the binomial variance over the number of sessions."""


def ratio_moments(numerator: Floats, denominator: Floats) -> Moments:
    sessions = int(denominator.sum())
    ratio = float(numerator.sum()) / sessions
    return Moments(sessions, ratio, ratio * (1 - ratio))
