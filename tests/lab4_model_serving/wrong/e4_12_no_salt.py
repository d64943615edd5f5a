"""The salt is not part of the hash: the same users are first to meet every new version."""

import math


def choose_version(key, weights, salt):
    check_weights(weights)
    return min(
        (version for version, weight in weights.items() if weight > 0),
        key=lambda version: -math.log(unit_hash(version, key)) / weights[version],
    )
