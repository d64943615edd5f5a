"""Both windows begin with the experiment, not with the unit's exposure: events before it count."""


def window_sums(
    exposures: Timed,
    events: Timed,
    values: Floats,
    *,
    n_units: int,
    until: float,
    before_days: float,
) -> WindowSums:
    after = (events.at >= 0) & (events.at < until)
    before = (events.at < 0) & (events.at >= -before_days)

    def total(chosen: NDArray[np.bool_]) -> Floats:
        sums = np.bincount(events.unit[chosen], values[chosen], minlength=n_units)
        return sums.astype(float)

    return WindowSums(metric=total(after), covariate=total(before))
