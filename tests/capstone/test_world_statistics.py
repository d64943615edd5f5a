"""Statistics of the simulated world, and click rates without position bias (exercise 7.1)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import world_statistics
from capstone.data import Feed
from capstone.impressions import scaled_world
from common.errors import InputError

LOOKS = np.array([1.0, 0.5, 0.25])


@pytest.mark.exercise("7.1")
def test_an_item_shown_low_is_not_called_bad_for_it() -> None:
    """Two items that half of the people who look click on; one always stands on top, one third.

    Their click-through differs by four, their attraction not at all.
    """
    n = 8000
    item, position = np.repeat([1, 2], n), np.repeat([0, 2], n)
    click = np.concatenate([np.arange(n) % 2 == 0, np.arange(n) % 8 == 0])
    found = world_statistics.debiased_ctr(item, position, click, LOOKS, 2)
    assert found.shape == (3,), f"shape {found.shape}, want (3,): row 0 is padding"
    for number in (1, 2):
        assert found[number] == pytest.approx(0.5), f"item {number}: {found[number]}, want 0.5"


@pytest.mark.exercise("7.1")
def test_each_item_is_divided_by_its_own_looks() -> None:
    """An item with rows at several positions: its looks are the sum over its rows.

    Item 1 stands once at each place (1.75 looks) and has one click; item 2 stands four times at the
    last (1 look) and has one. A mean of ratios per row, or of clicked rows alone, differs.
    """
    item = np.array([1, 1, 1, 2, 2, 2, 2])
    position = np.array([0, 1, 2, 2, 2, 2, 2])
    click = np.array([1, 0, 0, 0, 1, 0, 0], dtype=bool)
    found = world_statistics.debiased_ctr(item, position, click, LOOKS, 2)
    for number, want in ((1, 1 / 1.75), (2, 1.0)):
        got = found[number]
        assert got == pytest.approx(want), f"item {number}: {got}, want {want} clicks per look"


@pytest.mark.exercise("7.1")
def test_what_was_never_shown_has_no_rate() -> None:
    """Zero would say that nobody likes it, and a ranker would never show it: NaN says unknown."""
    found = world_statistics.debiased_ctr(np.array([2]), np.array([0]), np.array([False]), LOOKS, 3)
    assert np.isnan(found[[0, 1, 3]]).all(), f"{found}, want NaN for items 0, 1 and 3"
    assert found[2] == 0, f"item 2 was looked at and not clicked: {found[2]}, want 0"


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_it_finds_the_attraction_that_the_clicks_were_drawn_from(seed: int) -> None:
    """Whatever the policy: here one that puts good items high, so clicks by place mislead."""
    rng = np.random.default_rng(seed)
    attraction = np.array([0.0, 0.6, 0.3, 0.1])
    item = rng.integers(1, 4, 30_000)
    position = np.where(rng.random(30_000) < 0.8, item - 1, rng.integers(0, 3, 30_000))
    click = rng.random(30_000) < LOOKS[position] * attraction[item]
    found = world_statistics.debiased_ctr(item, position, click, LOOKS, 3)[1:]
    assert found == pytest.approx(attraction[1:], abs=0.035), found


@pytest.fixture(scope="module")
def statistics(feed: Feed) -> world_statistics.WorldStatistics:
    world = scaled_world(943, 1682, 0.0, 0)
    log = world_statistics.real_size(world, impressions=200_000, seed=0)
    return world_statistics.compare(world, feed, log)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("popularity: Gini", 0.05),
        ("popularity: share of the 100 most popular", 0.05),
        ("popularity: Zipf slope, ranks 10 to 300", 0.2),
        ("activity: Gini over users", 0.1),
        ("item-item cosine: mean", 0.2),
        ("item-item cosine: 95 % quantile", 0.25),
        ("share of ratings >= 4 (long views)", 0.05),
        ("share of ratings of 5 (shares)", 0.1),
        ("share of ratings <= 2 (dislikes)", 0.1),
    ],
)
def test_simulated_histories_have_the_statistics_of_the_real_ones(
    statistics: world_statistics.WorldStatistics, name: str, tolerance: float
) -> None:
    """They are fitted, so a deviation is a fault of the fit."""
    row = statistics.of(name)
    assert row.history == pytest.approx(row.real, rel=tolerance)


def test_the_log_is_more_concentrated_than_what_people_choose(
    statistics: world_statistics.WorldStatistics,
) -> None:
    """A feed shows what is popular, and so makes it more so: the clicks are not the ratings."""
    row = statistics.of("popularity: Gini")
    assert row.clicks > row.real + 0.1, row


def test_the_table_has_a_row_a_statistic(statistics: world_statistics.WorldStatistics) -> None:
    """What a column does not have is left empty, not written as nan."""
    table = statistics.table()
    assert len(table) == len(statistics.rows) + 1
    assert {len(row) for row in table} == {4}
    assert table[-1][-1] == "", "clicks have no dislikes"


def test_a_log_with_few_clicks_or_of_another_size_is_refused(feed: Feed) -> None:
    """Statistics of a handful of clicks would be of the sample, not of the world."""
    world = scaled_world(943, 1682, 0.0, 0)
    log = world_statistics.real_size(world, impressions=1000, seed=0)
    with pytest.raises(InputError, match="must be at least 5000"):
        world_statistics.compare(world, feed, log)
    with pytest.raises(InputError, match="size of the world"):
        world_statistics.compare(world.resized(2000, 1682, 0), feed, log)


def test_gini_and_zipf_slope_of_known_counts() -> None:
    """All alike is 0; one of n has all is 1 - 1/n; counts of a power law have its exponent."""
    assert world_statistics.gini(np.ones(7)) == pytest.approx(0)
    assert world_statistics.gini(np.array([0.0, 0, 0, 5])) == pytest.approx(0.75)
    law = 1e6 * np.arange(1, 1001) ** -0.8
    assert world_statistics.zipf_slope(law) == pytest.approx(-0.8, abs=1e-6)


def test_cosines_are_between_columns_of_the_popular_items() -> None:
    """Two items with the same viewers have 1, with none in common 0."""
    seen = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=bool)
    assert world_statistics.item_cosines(seen, 3).tolist() == pytest.approx([1, 0, 0])
