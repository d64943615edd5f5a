"""Whatever is not shown to be broken passes: an interval over the bound is taken for evidence."""


def verdict(lower, upper, bound, direction, counted, min_rows):
    if lower > bound if direction == "at_most" else upper < bound:
        return Verdict.FAIL
    if lower != lower or any(n < min_rows for n in counted.values()):
        return Verdict.NOT_ENOUGH_DATA
    return Verdict.PASS
