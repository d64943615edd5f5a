"""The middle of the interval decides: at the bound, a coin toss."""


def verdict(lower, upper, bound, direction, counted, min_rows):
    estimate = (lower + upper) / 2
    if estimate != estimate or any(n < min_rows for n in counted.values()):
        failed = lower > bound if direction == "at_most" else upper < bound
        return Verdict.FAIL if failed else Verdict.NOT_ENOUGH_DATA
    kept = estimate <= bound if direction == "at_most" else estimate >= bound
    return Verdict.PASS if kept else Verdict.FAIL
