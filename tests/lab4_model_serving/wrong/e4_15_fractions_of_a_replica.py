"""5.56 replicas are paid for; nobody rents out 0.56 of a machine."""


def fleet_cost(*, peak_rate, mean_rate, replica_qps, hourly, utilisation=0.6, spare=1):
    _check(peak_rate, mean_rate, replica_qps, hourly, utilisation, spare)
    replicas = peak_rate / (replica_qps * utilisation) + spare
    cost_per_hour = replicas * hourly
    return FleetCost(
        replicas=replicas,
        hourly=cost_per_hour,
        per_million=cost_per_hour / (mean_rate * 3600) * 1e6,
        utilisation_at_peak=peak_rate / (replicas * replica_qps),
        mean_utilisation=mean_rate / (replicas * replica_qps),
    )
