"""Ranges laid end to end: another weight shifts every border, and users between other versions."""


def choose_version(key, weights, salt):
    check_weights(weights)
    at = unit_hash(salt, key) * sum(weights.values())
    for version, weight in weights.items():
        at -= weight
        if at < 0:
            return version
    return max(weights, key=weights.get)
