"""CRC-32 is linear: another salt flips the same bits of every hash, and samples depend."""

from zlib import crc32


def choose_version(key, weights, salt):
    check_weights(weights)
    total = sum(weights.values())
    for version in list(weights)[::-1]:
        if crc32(f"{salt}/{version}/{key}".encode()) / 2**32 < weights[version] / total:
            return version
        total -= weights[version]
    return next(iter(weights))
