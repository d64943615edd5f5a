"""1 - PPV is the share of the selected that is wrong, not the share of the negatives selected."""


def implied_false_positive_rate(base_rate, ppv, fnr):
    check_rates(base_rate, ppv, fnr)
    return 1 - ppv
