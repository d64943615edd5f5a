"""The interval of the large groups vouches for a small one."""


def verdict(lower, upper, bound, direction, counted, min_rows):
    at_most = direction == "at_most"
    if lower > bound if at_most else upper < bound:
        return Verdict.FAIL
    if 0 in counted.values():
        return Verdict.NOT_ENOUGH_DATA
    if upper <= bound if at_most else lower >= bound:
        return Verdict.PASS
    return Verdict.NOT_ENOUGH_DATA
