"""When a batch leaves, and who is in it."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving import batch_choice
from labs.lab4_model_serving.batch_choice import check_settings, waste_of


def decided(waiting, oldest, now, free_since=0.0, *, batch=8, delay=0.01, queue=100):
    return batch_choice.decide(
        waiting,
        oldest,
        now,
        free_since=free_since,
        max_batch=batch,
        max_delay_s=delay,
        max_queue=queue,
    )


@pytest.mark.exercise("4.8")
def test_the_delay_is_counted_from_enqueue():
    """A request that waited through a whole run has had its delay: it leaves with the free runner.

    Counted from dequeue it would wait once more, while the runner has nothing to do: latency for
    nothing, and the busier the server, the more requests pay it.
    """
    found = decided(3, oldest=1.0, now=1.05, free_since=1.05)
    assert found.leave == 3, (
        f"enqueued at 1.000, delay 0.010, the runner is free at 1.050: {found.leave} leave, not 3"
    )
    early = decided(3, oldest=1.0, now=1.004, free_since=0.5)
    assert early.leave == 0, f"4 ms of the 10 ms are over, 3 of 8 wait, and {early.leave} left"
    assert early.wake_at == pytest.approx(1.01), f"wake at {early.wake_at}, not at 1.01"


@pytest.mark.exercise("4.8")
def test_a_full_batch_does_not_wait():
    """With max_batch requests there is nothing to wait for; more never run together."""
    found = decided(8, oldest=1.0, now=1.0)
    assert found.leave == 8, f"8 of 8 wait and {found.leave} leave"
    more = decided(11, oldest=1.0, now=1.5)
    assert more.leave == 8, f"11 wait, a batch has at most 8, and {more.leave} leave"


@pytest.mark.exercise("4.8")
def test_nothing_leaves_while_all_runners_are_busy():
    """However long the oldest has waited: a batch that left would only wait elsewhere, closed."""
    found = decided(20, oldest=0.0, now=9.0, free_since=None)
    assert found.leave == 0, f"no runner is free and {found.leave} leave"
    assert found.wake_at == math.inf, f"only a runner can change that, not the time {found.wake_at}"


@pytest.mark.exercise("4.8")
def test_the_queue_is_bounded():
    """What stays behind is at most max_queue; the rest is refused now and not served late."""
    found = decided(13, oldest=0.0, now=1.0, free_since=None, queue=10)
    assert found.refuse == 3, f"13 wait, 10 places: {found.refuse} refused, not 3"
    found = decided(13, oldest=0.0, now=1.0, queue=10)
    assert found.refuse == 0, f"8 of 13 leave and 5 fit into 10 places: {found.refuse} refused"


@pytest.mark.exercise("4.8")
@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    waiting=st.integers(0, 40),
    age=st.floats(0, 0.05),
    free=st.one_of(st.none(), st.floats(0, 0.05)),
    batch=st.integers(1, 16),
    delay=st.sampled_from([0.0, 0.005, 0.02]),
    queue=st.integers(1, 20),
)
def test_every_state_has_one_decision(waiting, age, free, batch, delay, queue):
    """A free runner works when a batch is due; otherwise there is a time at which to look again.

    A state in which nothing leaves and nobody looks again is a request that hangs for ever.
    """
    now = 10.0
    since = None if free is None else now - free
    found = decided(waiting, now - age, now, since, batch=batch, delay=delay, queue=queue)
    due = waiting > 0 and (waiting >= batch or age > delay + 1e-9)
    early = waiting < batch and age < delay - 1e-9
    if since is None or waiting == 0:
        assert found.leave == 0, f"nobody can run: {found}"
        assert found.wake_at == math.inf, f"time alone changes nothing: {found}"
    elif due:
        assert found.leave == min(waiting, batch), f"{waiting} wait, due, batch {batch}: {found}"
    elif early:
        assert found.leave == 0, f"not due yet: {found}"
        assert found.wake_at == pytest.approx(now - age + delay), f"{found}"
    behind = waiting - found.leave - found.refuse
    assert 0 <= behind <= queue, f"{behind} stay behind in {queue} places: {found}"


@pytest.mark.exercise("4.9")
def test_the_oldest_request_always_runs():
    """A long text among short ones goes first when it is the oldest, however it spoils the batch.

    "Shortest first" has the best average and never runs the long one while short ones keep coming.
    """
    chosen = batch_choice.choose([400, 5, 5, 6, 5], max_batch=4, max_waste=0.2)
    assert 0 in chosen, f"the oldest (400) is not among {chosen}"
    assert chosen == [0], f"nothing of like length waits, so it runs alone, not {chosen}"


@pytest.mark.exercise("4.9")
def test_like_lengths_run_together():
    """From a mixed queue those near the oldest come along; the others wait for their own batch."""
    lengths = [20, 3, 19, 4, 21, 3, 22, 2]
    chosen = batch_choice.choose(lengths, max_batch=4, max_waste=0.25)
    assert chosen == [0, 2, 4, 6], f"{[lengths[i] for i in chosen]} run with 20"


@pytest.mark.exercise("4.9")
def test_the_batch_is_as_large_as_the_bound_allows():
    """A bound on waste is no reason for small batches: all that fit come along."""
    lengths = [10, 8, 12, 9, 30]
    chosen = batch_choice.choose(lengths, max_batch=8, max_waste=0.25)
    assert chosen == [0, 1, 2, 3], f"8, 9, 10, 12 waste 0.19 of 0.25, but {chosen} were chosen"
    tight = batch_choice.choose(lengths, max_batch=8, max_waste=0.1)
    assert tight == [0, 1, 3], f"8, 9, 10 waste 0.1 of 0.1, but {tight} were chosen"


def best(lengths, max_batch, max_waste):
    """All windows by brute force: (texts, -waste) of the best one with the oldest in it."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    found = []
    for a, b in itertools.combinations(range(len(order) + 1), 2):
        window = order[a:b]
        real = sum(lengths[i] for i in window)
        wasted = 1 - real / (len(window) * max(lengths[i] for i in window))
        if 0 in window and len(window) <= max_batch and (len(window) == 1 or wasted <= max_waste):
            found.append((len(window), -wasted))
    return max(found)


@pytest.mark.exercise("4.9")
@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=14),
    max_batch=st.integers(1, 6),
    max_waste=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]),
)
def test_no_window_is_better(lengths, max_batch, max_waste):
    """Compared with every window there is: most texts first, then least padding."""
    chosen = batch_choice.choose(lengths, max_batch=max_batch, max_waste=max_waste)
    assert chosen == sorted(set(chosen)), f"positions ascend and none comes twice: {chosen}"
    assert chosen[:1] == [0], f"the oldest is not in {chosen}"
    real = [lengths[i] for i in chosen]
    wasted = 1 - sum(real) / (len(real) * max(real))
    n, least = best(lengths, max_batch, max_waste)
    assert len(chosen) == n, f"{len(chosen)} of {lengths} run, {n} could ({chosen})"
    assert wasted == pytest.approx(-least, abs=1e-9), (
        f"waste {wasted:.3f}, {-least:.3f} is possible"
    )


def test_an_empty_queue_gives_an_empty_batch():
    """Nobody waits: nothing is chosen, and nothing wastes anything."""
    assert batch_choice.choose([], max_batch=4, max_waste=0.5) == []
    assert waste_of([]) == 0.0
    assert waste_of([5, 5, 10]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("settings", "named"),
    [((0, 0.0, 1), "max_batch"), ((1, -1.0, 1), "max_delay_s"), ((1, math.inf, 1), "max_delay_s"),
     ((1, math.nan, 1), "max_delay_s"), ((1, 0.0, 0), "max_queue")],
)  # fmt: skip
def test_settings_that_no_batcher_can_have_are_refused_by_name(settings, named):
    """The message names the setting: five numbers stand beside each other in a configuration."""
    with pytest.raises(InputError, match=named):
        check_settings(*settings)
