"""Online quality: a log whose truth is known gives that truth, and limits that chance respects."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from capstone.online_quality import OnlineQuality, measure, score_references
from common.errors import InputError
from tests.capstone.feed_log import write_log

PARITY = {"parity": {user: "odd" if user % 2 else "even" for user in range(1, 301)}}


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("ordinary"))


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory, ordinary: Path) -> OnlineQuality:
    """More for odd users, heads 0.1 too high, and every tenth feed a fallback."""
    folder = write_log(
        tmp_path_factory.mktemp("troubled"), tilt=0.3, shift=0.1, fallback_every=10, seed=1
    )
    return measure(folder, references=score_references(ordinary), groups=PARITY)


def test_an_ordinary_log_raises_nothing(ordinary: Path) -> None:
    """Every statistic is below the limit that chance alone does not exceed, and none is 0."""
    found = measure(ordinary, references=score_references(ordinary), groups=PARITY)
    assert (found.feeds, found.users) == (300, 300)
    assert found.exploration_share == pytest.approx(0.2)
    assert found.fallback_share == 0
    assert 0.4 < found.engaged_share < 0.5
    assert {each.head for each in found.calibration} == {"like", "love", "dislike"}
    for head in found.calibration:
        assert 0 < head.error < head.limit, head
    (gap,) = found.gaps
    assert 0 < gap.gap < gap.limit, gap
    assert len(found.drift) == 4
    assert not any(each.drifted for each in found.drift)


def test_heads_that_are_too_high_are_found(troubled: OnlineQuality) -> None:
    """The direction is in predicted and observed, the alarm in error and limit."""
    heads = {each.head: each for each in troubled.calibration}
    assert heads["dislike"].error > heads["dislike"].limit
    assert heads["dislike"].predicted - heads["dislike"].observed == pytest.approx(0.1, abs=0.04)


def test_a_gap_between_groups_is_found_with_its_shares(troubled: OnlineQuality) -> None:
    """Odd users were given a higher chance of reacting."""
    (gap,) = troubled.gaps
    assert gap.gap > gap.limit
    assert gap.shares["odd"] - gap.shares["even"] == pytest.approx(gap.gap)
    assert gap.rows == 300


def test_shifted_scores_have_drifted_and_fallbacks_have_no_scores(troubled: OnlineQuality) -> None:
    """A fallback feed is counted, and adds nothing to the scores."""
    assert troubled.fallback_share == pytest.approx(0.1)
    assert {each.rows for each in troubled.drift} == {270}
    assert all(each.drifted for each in troubled.drift)


def test_a_hide_after_a_click_is_a_hide(ordinary: Path) -> None:
    """Engagement counts clicks that stayed clicks: 90 % of the reacted half."""
    found = measure(ordinary)
    assert found.engaged_share < found.reactions / (found.feeds * 5)


def test_the_window_and_the_version_are_kept(ordinary: Path) -> None:
    """Yesterday's feeds and another bundle's do not mix in."""
    later = datetime.now(UTC) + timedelta(hours=1)
    assert measure(ordinary, since=later).feeds == 0
    assert measure(ordinary, version="other").feeds == 0
    assert measure(ordinary, version="v1").feeds == 300
    with pytest.raises(InputError, match="must have a time zone"):
        measure(ordinary, since=datetime(2026, 1, 1))


def test_the_logs_of_several_gateways_are_one(tmp_path: Path) -> None:
    """Each replica has a folder; a reaction that was sent to both counts once."""
    write_log(tmp_path / "gateway-0", users=30, version="v1")
    write_log(tmp_path / "gateway-1", users=20, version="v2")
    one, both = measure(tmp_path / "gateway-0"), measure(tmp_path)
    assert (one.feeds, both.feeds) == (30, 50)
    write_log(tmp_path / "gateway-2", users=30, version="v1")
    assert measure(tmp_path).reactions == both.reactions


def test_a_log_without_a_feed_is_an_answer(tmp_path: Path) -> None:
    """The monitor may start before the first feed."""
    found = measure(tmp_path / "not-yet", groups=PARITY)
    assert (found.feeds, found.calibration, found.gaps, found.drift) == (0, (), (), ())
