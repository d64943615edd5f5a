"""One pass of the hash with the name at the end: experiments depend on each other."""


def assign(
    unit_id: str, experiment: str, weights: Sequence[float], coverage: float = 1.0
) -> int | None:
    check_shares(weights, coverage)
    point = fnv32a(unit_id + experiment) % 1000 / 1000
    start = 0.0
    for arm, weight in enumerate(weights):
        if start <= point < start + coverage * weight:
            return arm
        start += weight
    return None
