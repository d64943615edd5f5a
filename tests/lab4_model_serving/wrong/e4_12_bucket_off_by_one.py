"""A hundred buckets from 0 to 99 and "at most" for "below": each version gets a bucket too many."""


def choose_version(key, weights, salt):
    check_weights(weights)
    total = sum(weights.values())
    for version in list(weights)[::-1]:
        bucket = int(100 * unit_hash(salt, version, key))
        if bucket <= 100 * weights[version] / total:
            return version
        total -= weights[version]
    return next(iter(weights))
