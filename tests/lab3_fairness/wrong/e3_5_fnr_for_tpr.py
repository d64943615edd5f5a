"""The FNR stands where the share of the positives that is found, 1 - FNR, belongs."""


def implied_false_positive_rate(base_rate, ppv, fnr):
    check_rates(base_rate, ppv, fnr)
    implied = base_rate / (1 - base_rate) * (1 - ppv) / ppv * fnr
    check_implied(implied, base_rate, ppv, fnr)
    return implied
