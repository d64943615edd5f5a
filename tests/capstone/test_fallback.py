"""Deadlines, the circuit breaker, and the feed that is left when there is no ranker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import fallback
from capstone.fallback import CircuitBreaker, DependencyDown, LastGood, Missed
from common.errors import InputError


class Work:
    """Counts its starts and ends; takes ``seconds``, then raises ``error`` if there is one."""

    def __init__(self, seconds: float = 0.0, error: BaseException | None = None) -> None:
        self.seconds, self.error = seconds, error
        self.started = self.finished = self.cancelled = 0

    async def __call__(self) -> None:
        self.started += 1
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        self.finished += 1


def missed(
    work: Callable[[], Awaitable[None]], breaker: CircuitBreaker, seconds: float = 0.03
) -> Missed | None:
    """Run the work with a deadline, and give what it left running time to show itself."""

    async def main() -> Missed | None:
        loop = asyncio.get_running_loop()
        found = await fallback.run_with_deadline(
            work, due=loop.time() + seconds, breaker=breaker, clock=loop.time
        )
        await asyncio.sleep(0.06)
        return found

    return asyncio.run(main())


@pytest.mark.exercise("7.10")
def test_work_that_ends_in_time_is_done() -> None:
    """The common case: nothing is missed, and the breaker hears of a success."""
    work, breaker = Work(), CircuitBreaker(failures=2)
    breaker.failed(0.0)
    found = missed(work, breaker)
    assert (found, work.finished) == (None, 1), f"got {found}, finished {work.finished} times"
    breaker.failed(0.0)
    assert not breaker.open, "a success must make the count of failures in a row begin anew"


@pytest.mark.exercise("7.10")
def test_work_that_takes_too_long_is_cancelled_not_left_running() -> None:
    """A request that nobody waits for any more must not go on taking a server's time."""
    work, breaker = Work(seconds=0.05), CircuitBreaker(failures=1)
    found = missed(work, breaker, seconds=0.01)
    assert found is Missed.DEADLINE, f"expected {Missed.DEADLINE}, got {found}"
    assert (work.cancelled, work.finished) == (1, 0), (
        f"cancelled {work.cancelled} and finished {work.finished} times, expected 1 and 0"
    )
    assert breaker.open, "a deadline that was missed is a failure of the dependency"


@pytest.mark.exercise("7.10")
def test_a_dependency_that_fails_is_not_asked_again() -> None:
    """Else every request waits out its whole deadline for a server that is dead."""
    work, breaker = Work(error=DependencyDown("dead")), CircuitBreaker(failures=3, cooldown_s=60)
    found = [missed(work, breaker) for _ in range(5)]
    assert found == [Missed.DOWN] * 3 + [Missed.OPEN] * 2, f"got {found}"
    assert work.started == 3, f"started {work.started} times, expected 3"


@pytest.mark.exercise("7.10")
def test_a_request_whose_time_is_over_starts_nothing_and_blames_nobody() -> None:
    """The stages before it were slow; the dependency did nothing, and no probe may be lost."""
    work, breaker = Work(), CircuitBreaker(failures=1, cooldown_s=0.001)
    breaker.failed(0.0)
    found = missed(work, breaker, seconds=-1.0)
    assert (found, work.started) == (Missed.LATE, 0), f"got {found}, started {work.started}"
    assert breaker.allows(1e9), "a request that was late must not take the place of a probe"


@pytest.mark.exercise("7.10")
def test_a_client_that_goes_away_is_not_a_failure_of_the_dependency() -> None:
    """A cancelled request must end as cancelled, and leave the breaker ready for a probe."""
    breaker = CircuitBreaker(failures=1, cooldown_s=0.001)
    breaker.failed(0.0)

    async def main() -> object:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(
            fallback.run_with_deadline(
                Work(seconds=0.05), due=loop.time() + 0.2, breaker=breaker, clock=loop.time
            )
        )
        await asyncio.sleep(0.01)
        task.cancel()
        (found,) = await asyncio.gather(task, return_exceptions=True)
        return found

    found = asyncio.run(main())
    assert isinstance(found, asyncio.CancelledError), f"expected CancelledError, got {found!r}"
    assert breaker.allows(1e9), "the probe was abandoned, so the next request may be one"


def test_the_breaker_lets_one_probe_through_after_the_cooldown() -> None:
    breaker = CircuitBreaker(failures=2, cooldown_s=1.0)
    breaker.failed(10.0)
    assert breaker.allows(10.0)
    breaker.failed(10.0)
    assert [breaker.allows(now) for now in (10.5, 11.0, 11.1, 50.0)] == [False, True, False, False]
    breaker.failed(11.2)
    assert [breaker.allows(now) for now in (12.0, 12.3)] == [False, True]
    breaker.succeeded()
    assert not breaker.open
    assert breaker.allows(12.4)


@pytest.mark.parametrize("options", [{"failures": 0}, {"cooldown_s": 0.0}])
def test_a_breaker_that_could_not_work_is_refused(options: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match="must be"):
        CircuitBreaker(**options)


ids = st.lists(st.integers(-2, 40), max_size=30).map(lambda each: np.array(each, dtype=np.int64))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(ids, ids, ids, st.sets(st.integers(1, 30)), st.integers(1, 20))
def test_a_fallback_feed_has_only_allowed_items_and_as_many_as_there_are(
    last_good: np.ndarray, popular: np.ndarray, fresh: np.ndarray, barred: set[int], k: int
) -> None:
    """The lists are of another bundle or another day: what they name may not be shown any more."""
    allowed = np.ones(31, dtype=bool)
    allowed[[0, *barred]] = False
    found = fallback.fallback_items(last_good, popular, fresh, allowed, k)
    assert len(found) == len(set(found.tolist())) == min(k, int(allowed.sum()))
    assert allowed[found].all()


def test_a_fallback_feed_begins_with_the_last_good_ranking() -> None:
    """It is older than a fresh one, and still made for this user."""
    allowed = np.ones(20, dtype=bool)
    allowed[5] = False
    popular, fresh = np.array([1, 2, 3]), np.array([9, 1])
    found = fallback.fallback_items(np.array([7, 5, 6]), popular, fresh, allowed, 6)
    assert found.tolist() == [7, 6, 1, 9, 2, 3]


def test_the_last_good_rankings_are_bounded() -> None:
    kept = LastGood(users=2)
    for user in (1, 2, 1, 3):
        kept.keep(user, np.arange(500))
    assert [len(kept.of(user)) for user in (1, 2, 3)] == [fallback.KEPT, 0, fallback.KEPT]
