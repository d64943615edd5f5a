"""Rates that no classifier has together give an FPR of 1 in place of an error."""


def implied_false_positive_rate(base_rate, ppv, fnr):
    check_rates(base_rate, ppv, fnr)
    return min(1.0, base_rate / (1 - base_rate) * (1 - ppv) / ppv * (1 - fnr))
