"""The experiment's name is not hashed: every experiment treats the same users."""


def assign(
    unit_id: str, experiment: str, weights: Sequence[float], coverage: float = 1.0
) -> int | None:
    check_shares(weights, coverage)
    point = fnv32a(str(fnv32a(unit_id))) % BUCKETS / BUCKETS
    start = 0.0
    for arm, weight in enumerate(weights):
        if start <= point < start + coverage * weight:
            return arm
        start += weight
    return None
