"""One group with too few rows, and nothing is decided: not even what the others have shown."""


def verdict(lower, upper, bound, direction, counted, min_rows):
    at_most = direction == "at_most"
    if any(n < min_rows for n in counted.values()):
        return Verdict.NOT_ENOUGH_DATA
    if lower > bound if at_most else upper < bound:
        return Verdict.FAIL
    if upper <= bound if at_most else lower >= bound:
        return Verdict.PASS
    return Verdict.NOT_ENOUGH_DATA
