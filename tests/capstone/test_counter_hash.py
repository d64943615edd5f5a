"""Random numbers that belong to what they are for."""

from __future__ import annotations

import numpy as np

from capstone.counter_hash import PARTS, hash64, signs, uniform


def test_a_number_has_its_bits_whoever_asks_and_in_whatever_order() -> None:
    """This is what lets any machine draw any shard: there is no state to be at the right place."""
    numbers = np.arange(1000)
    assert np.array_equal(hash64(1, 2, numbers)[::-1], hash64(1, 2, numbers[::-1]))
    assert hash64(1, 2, 7) == hash64(1, 2, numbers)[7]


def test_the_parts_of_a_hash_are_uniform_and_unrelated() -> None:
    """Mean 1/2, variance 1/12, no correlation between parts, purposes, seeds or neighbours."""
    numbers = np.arange(100_000)
    columns = [uniform(hash64(3, 1, numbers), part) for part in range(PARTS)]
    columns += [uniform(hash64(3, 2, numbers)), uniform(hash64(4, 1, numbers))]
    columns.append(np.roll(columns[0], 1))
    for column in columns:
        assert abs(column.mean() - 0.5) < 0.004, column.mean()
        assert abs(column.var() - 1 / 12) < 0.001, column.var()
    between = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(between).max() < 0.015, between.round(3)


def test_signs_have_the_covariance_of_a_standard_normal() -> None:
    """One hash gives a whole vector; its entries must not go together."""
    drawn = signs(hash64(5, 1, np.arange(50_000)), 34)
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    assert np.abs(np.cov(drawn.T) - np.eye(34)).max() < 0.03
