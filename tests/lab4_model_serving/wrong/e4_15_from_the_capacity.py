"""A million at the measured rate, as if every replica were always full."""


def fleet_cost(*, peak_rate, mean_rate, replica_qps, hourly, utilisation=0.6, spare=1):
    _check(peak_rate, mean_rate, replica_qps, hourly, utilisation, spare)
    replicas = whole(peak_rate / (replica_qps * utilisation)) + spare
    return FleetCost(
        replicas=replicas,
        hourly=replicas * hourly,
        per_million=hourly / (replica_qps * 3600) * 1e6,
        utilisation_at_peak=peak_rate / (replicas * replica_qps),
        mean_utilisation=mean_rate / (replicas * replica_qps),
    )
