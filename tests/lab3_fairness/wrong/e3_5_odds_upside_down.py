"""The odds of the base rate are inverted, (1 - p) / p: the group with more positives gets less."""


def implied_false_positive_rate(base_rate, ppv, fnr):
    check_rates(base_rate, ppv, fnr)
    implied = (1 - base_rate) / base_rate * (1 - ppv) / ppv * (1 - fnr)
    if implied > 1:
        implied = 1.0
    return implied
