"""A group without rows is taken for no group, so a rule about it is kept."""


def verdict(lower, upper, bound, direction, counted, min_rows):
    at_most = direction == "at_most"
    if lower > bound if at_most else upper < bound:
        return Verdict.FAIL
    kept = upper <= bound if at_most else lower >= bound
    if kept and all(n >= min_rows for n in counted.values() if n):
        return Verdict.PASS
    return Verdict.NOT_ENOUGH_DATA
