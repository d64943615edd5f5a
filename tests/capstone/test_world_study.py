"""The parts of the study of the simulated world, and its figures."""

from __future__ import annotations

import numpy as np
import pytest

from capstone import world_study
from capstone.data import Feed
from capstone.figures_world import draw_drift, draw_position_bias, draw_statistics
from capstone.impressions import scaled_world
from capstone.world import World
from capstone.world_statistics import Statistic, WorldStatistics, real_size


@pytest.fixture(scope="module")
def world() -> World:
    return scaled_world(943, 1682, 0.0, 0)


def test_swaps_find_the_examination_and_clicks_by_position_do_not(
    world: World, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quality is on top as well, so clicks by position fall faster than attention."""
    monkeypatch.setattr(world_study, "SWAP_SESSIONS", 30_000)
    lists = 1 + np.argsort(-world.count)[None, :10].repeat(943, axis=0)
    log = real_size(world, impressions=150_000, seed=0)
    found = world_study.position_bias(world, log, lists, seed=0)
    assert found.swaps.worst_error(found.truth) < 0.25, found.swaps.relative
    assert found.click_through.worst_error(found.truth) > 0.4, found.click_through.relative
    assert found.naive < 0.75, "explored items look far worse than they are"
    assert found.debiased == pytest.approx(1, abs=0.12), found.debiased
    assert draw_position_bias(found).axes[0].get_xlabel() == "position"


def test_the_list_of_day_0_falls_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drift costs whoever does not retrain."""
    monkeypatch.setattr(world_study, "DAYS", (0, 14))
    monkeypatch.setattr(world_study, "DRIFT_USERS", 60)
    found = world_study.drift(world)
    assert found.stale[0] == found.current[0]
    assert found.stale[1] < found.current[1]
    assert found.overlap[0] == 1 > found.overlap[1]
    assert len(draw_drift(found).axes) == 2


def test_one_two_and_three_ranks_draw_the_same_rows() -> None:
    """The claim of the report, from the generator itself."""
    assert world_study.same_for_any_ranks(0)


def test_the_statistics_are_drawn_in_their_order() -> None:
    """One row a statistic, the first on top."""
    rows = (Statistic("a", 0.5, 0.6, 0.9), Statistic("b", 2.0, 2.0, float("nan")))
    axes = draw_statistics(WorldStatistics(rows, 5000, 0.07, 0.005)).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label[0] for label in labels] == ["a", "b"]
    assert axes.get_yticks()[0] > axes.get_yticks()[1]
