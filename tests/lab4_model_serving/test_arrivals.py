"""Arrivals: Poisson, bursts, phases, and those of a log."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving import arrivals


@pytest.mark.exercise("4.1")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(rate=st.floats(20, 2000), seconds=st.floats(0.5, 5), seed=st.integers(0, 2**31 - 1))
def test_arrivals_are_ascending_and_inside_the_run(rate, seconds, seed):
    """Offsets ascend and lie in [0, seconds): the run ends when you said, and never sleeps back."""
    offsets = arrivals.poisson_schedule(rate, seconds, seed)
    assert len(offsets) > 0, f"no arrivals at {rate:.0f}/s in {seconds:.1f} s: 1 / rate is the gap"
    assert np.all(np.diff(offsets) >= 0), "offsets must ascend"
    assert offsets[0] >= 0, f"first offset {offsets[0]} is before the start"
    assert offsets[-1] < seconds, f"last offset {offsets[-1]} is not below {seconds}"


@pytest.mark.exercise("4.1")
def test_gaps_are_exponential():
    """Gaps have mean 1/rate and a standard deviation as large as their mean.

    Evenly spaced requests (standard deviation 0) never meet in the queue, so the server looks
    far better than with users.
    """
    offsets = arrivals.poisson_schedule(200, 50, seed=3)
    assert len(offsets) > 100, f"200/s for 50 s should give about 10,000, got {len(offsets)}"
    gaps = np.diff(offsets)
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.05), f"mean gap {gaps.mean():.5f} s"
    ratio = gaps.std() / gaps.mean()
    assert ratio == pytest.approx(1, abs=0.05), f"std / mean of the gaps is {ratio:.3f}, not 1"


@pytest.mark.exercise("4.1")
def test_the_number_of_arrivals_varies_like_a_poisson_number():
    """Over many seeds the count has mean and variance rate * seconds.

    A schedule with exactly rate * seconds arrivals, or never more, has no busy runs.
    """
    counts = np.array([len(arrivals.poisson_schedule(50, 1, seed)) for seed in range(400)])
    assert counts.mean() == pytest.approx(50, abs=1.8), f"mean count {counts.mean():.1f}, not 50"
    assert 35 < counts.var() < 68, f"variance of the count {counts.var():.1f}, should be near 50"


@pytest.mark.exercise("4.1")
def test_a_seed_gives_one_schedule():
    """The same seed repeats a load test exactly; another seed does not."""
    first, again, other = (arrivals.poisson_schedule(100, 2, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again), "the same seed gave two schedules"
    assert not np.array_equal(first, other), "seeds 1 and 2 gave the same schedule"


def test_dispersion_tells_a_metronome_from_users_and_users_from_bursts():
    """Variance / mean of the counts: 0, 1, and well above 1. The rate is the same in all three."""
    metronome = arrivals.constant_schedule(200, 100)
    poisson = arrivals.poisson_schedule(200, 100, seed=0)
    bursty = arrivals.mmpp_schedule([20, 1100], [5, 1], 100, seed=1)
    found = [arrivals.dispersion(each, 0.1) for each in (metronome, poisson, bursty)]
    assert found[0] < 0.05, found
    assert found[1] == pytest.approx(1, abs=0.15), found
    assert found[2] > 5, found


def test_phases_follow_each_other_at_their_own_rates():
    """Half a second of silence in the middle, and the counts of each phase near rate * seconds."""
    schedule = arrivals.phased_schedule([(1000, 1.0), (0, 0.5), (4000, 1.0)], seed=0)
    assert np.all(np.diff(schedule) >= 0)
    counts = np.histogram(schedule, [0, 1.0, 1.5, 2.5])[0]
    assert counts[1] == 0
    assert abs(counts[0] - 1000) < 150, counts
    assert abs(counts[2] - 4000) < 300, counts


def test_an_mmpp_has_the_mean_rate_of_its_visits():
    """Weighted with the mean visit: (100 * 2 + 700 * 1) / 3 = 300/s."""
    schedule = arrivals.mmpp_schedule([100, 700], [2.0, 1.0], 900, seed=3)
    assert len(schedule) / 900 == pytest.approx(300, rel=0.15)


def test_a_day_is_busiest_at_noon():
    schedule = arrivals.diurnal_schedule(50, 500, 40, seed=0)
    counts = np.histogram(schedule, np.linspace(0, 40, 5))[0]
    assert min(counts[1:3]) > 2.5 * max(counts[0], counts[3]), counts
    assert len(schedule) == pytest.approx(40 * 275, rel=0.05)


def test_a_replay_keeps_every_gap_and_shrinks_it_by_the_speed():
    """Bursts stay bursts: the gaps of 1.7 s of traffic, at twice the speed, in 0.85 s."""
    times = 1_700_000_000 + np.array([0.25, 0.25, 0.5, 1.95])
    schedule = arrivals.recorded_schedule(times[::-1], speed=2)
    assert schedule == pytest.approx([0, 0, 0.125, 0.85], abs=1e-6)


def test_whole_seconds_of_a_log_are_spread_over_their_second():
    """100 lines with the same second are no burst of 100 at once, the log just has no fraction."""
    schedule = arrivals.recorded_schedule(np.repeat([10, 11], 100), seed=1)
    assert len(np.unique(schedule)) == 200
    assert (schedule[100] - schedule[0]) == pytest.approx(1, abs=0.1)


def test_an_access_log_is_read_whatever_its_time_is_written_in(tmp_path):
    """The common log format with its zone, nginx's $msec, and ISO 8601: the same three instants."""
    common = '1.2.3.4 - - [23/Nov/2026:11:00:0{} +0100] "POST /predictions/m HTTP/1.1" 200 61\n'
    lines = {
        "common": "".join(common.format(second) for second in (0, 1, 3)),
        "msec": "# time status\n1795428000.000 200\n\n1795428001.0 200\n1795428003 503\n",
        "iso": "".join(f"2026-11-23T10:00:0{second}+00:00, 200\n" for second in (0, 1, 3)),
    }
    for name, text in lines.items():
        path = tmp_path / name
        path.write_text(text)
        assert arrivals.read_arrivals(path).tolist() == [1795428000, 1795428001, 1795428003], name


def test_a_line_without_a_time_is_named(tmp_path):
    path = tmp_path / "access.log"
    path.write_text("1795428000 200\nGET / HTTP/1.1\n")
    with pytest.raises(InputError, match=r"access.log:2: no time in 'GET / HTTP/1.1'"):
        arrivals.read_arrivals(path)
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="has no requests"):
        arrivals.read_arrivals(path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: arrivals.constant_schedule(0, 1), "rate = 0 must be > 0"),
        (lambda: arrivals.recorded_schedule([]), "no timestamps"),
        (lambda: arrivals.recorded_schedule([1.0, np.nan]), "must be finite"),
        (lambda: arrivals.recorded_schedule([1.0], speed=0), "speed = 0 must be > 0"),
        (lambda: arrivals.mmpp_schedule([1], [1], 1, 0), "at least 2 states"),
        (lambda: arrivals.mmpp_schedule([1, 2], [1], 1, 0), "one time for each rate"),
        (lambda: arrivals.diurnal_schedule(2, 1, 1, 0), "must ascend"),
        (lambda: arrivals.phased_schedule([(1, 0)], 0), "seconds = 0 must be > 0"),
        (lambda: arrivals.dispersion(np.array([0.01]), 0.1), "shorter than two windows"),
    ],
)
def test_arrivals_that_cannot_be_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
