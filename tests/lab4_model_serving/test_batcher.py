"""The batcher on a clock that jumps: seconds of load in milliseconds, and the same every time."""

import asyncio
from concurrent.futures import Executor, Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving.batcher import Batcher, DeadlinePassed, QueueFull


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer when there is nothing to do."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        select = self._selector.select

        def jump(timeout=None):
            assert timeout is not None, "everybody waits for something that never comes"
            if timeout > 0 and self._scheduled:
                self.now = max(self.now, self._scheduled[0].when())
            return select(0)

        self._selector.select = jump

    def time(self):
        return self.now


class VirtualExecutor(Executor):
    """Runs a batch at once and gives its results when its service time is over."""

    def __init__(self, loop, batch_s):
        self.loop, self.batch_s = loop, batch_s
        self.batches, self.running, self.most = [], 0, 0

    def submit(self, run, items):
        future = Future()
        self.batches.append((self.loop.now, list(items)))
        self.running += 1
        self.most = max(self.most, self.running)

        def done():
            self.running -= 1
            try:
                future.set_result(run(items))
            except Exception as error:
                future.set_exception(error)

        self.loop.call_later(self.batch_s(len(items)), done)
        return future


def doubled(items):
    return [2 * item for item in items]


def on_virtual_time(scenario, *, batch_s=lambda n: 0.01, run=doubled, **options):
    """What ``scenario(batcher, executor, loop)`` returns."""
    loop = VirtualLoop()
    executor = VirtualExecutor(loop, batch_s)
    batcher = Batcher(run, executor=executor, clock=loop.time, **options)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(scenario(batcher, executor, loop))


async def offered(batcher, loop, schedule, *, client="", outcome=None):
    """Offer item i at schedule[i]; (latency or NaN, number refused) for each, by virtual time."""
    latency = np.full(len(schedule), np.nan) if outcome is None else outcome

    async def one(i):
        began = loop.now
        try:
            await batcher.submit(i, client=client)
        except QueueFull:
            return
        latency[i] = loop.now - began

    tasks = []
    for i, due in enumerate(schedule):
        await asyncio.sleep(max(0.0, due - loop.now))
        tasks.append(loop.create_task(one(i)))
    await asyncio.gather(*tasks)
    return latency


def test_a_lone_request_pays_the_delay_and_no_more():
    """5 ms of hoping for company and 10 ms of work; with a delay of 0 it runs at once."""

    async def scenario(batcher, executor, loop):
        served = await batcher.submit(21)
        return served, loop.now

    served, now = on_virtual_time(scenario, max_delay_s=0.005)
    assert (served.result, served.batch) == (42, 1)
    assert served.queue_s == pytest.approx(0.005)
    assert now == pytest.approx(0.015)
    _, now = on_virtual_time(scenario, max_delay_s=0.0)
    assert now == pytest.approx(0.010)


def test_a_full_batch_leaves_at_once_and_a_queued_one_with_the_free_runner():
    """Requests 4 and 5 wait through the first run, beyond their delay: they leave at its end."""

    async def scenario(batcher, executor, loop):
        await asyncio.gather(*(batcher.submit(i) for i in range(6)))
        return executor.batches

    batches = on_virtual_time(scenario, max_batch=4, max_delay_s=0.005)
    assert batches[0] == (0.0, [0, 1, 2, 3])
    assert batches[1] == (pytest.approx(0.010), [4, 5])


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    gaps=st.lists(st.floats(0, 0.02), min_size=1, max_size=40),
    lengths=st.lists(st.integers(1, 30), min_size=40, max_size=40),
    max_batch=st.integers(1, 7),
    max_delay_s=st.sampled_from([0.0, 0.003]),
    runners=st.integers(1, 3),
)
def test_everybody_gets_his_own_answer(gaps, lengths, max_batch, max_delay_s, runners):
    """Whatever comes when: every request runs once, in a batch of legal size, and gets its result.

    Sorting by length and answering in another order is how user A sees the answer of user B.
    """

    async def scenario(batcher, executor, loop):
        async def one(i, due):
            await asyncio.sleep(due)
            served = await batcher.submit(i, length=lengths[i], client=str(i % 3))
            return served.result

        due = np.cumsum(gaps)
        results = await asyncio.gather(*(one(i, t) for i, t in enumerate(due)))
        return results, [items for _, items in executor.batches], executor.most

    results, batches, most = on_virtual_time(
        scenario, max_batch=max_batch, max_delay_s=max_delay_s, runners=runners, max_waste=0.3
    )
    assert results == [2 * i for i in range(len(gaps))]
    assert sorted(i for batch in batches for i in batch) == list(range(len(gaps)))
    assert max(len(batch) for batch in batches) <= max_batch
    assert most <= runners


def test_like_lengths_run_together():
    """20 short and 20 long texts, mixed: no batch of four holds both, and the oldest goes first."""

    async def scenario(batcher, executor, loop):
        first = batcher.enqueue(-1, length=5)
        tasks = [batcher.enqueue(i, length=30 if i % 2 else 4) for i in range(40)]
        await asyncio.gather(first, *tasks)
        return [items for _, items in executor.batches[1:]]

    batches = on_virtual_time(
        scenario, batch_s=lambda n: 0.001 * n, max_batch=4, max_delay_s=0.0, max_waste=0.25
    )
    assert [len({i % 2 for i in batch}) for batch in batches] == [1] * 10
    assert batches[0][0] == 0


def test_where_padding_costs_nothing_batches_are_full():
    """10 ms for any batch: two short batches would cost twice what the padding of one does."""

    async def scenario(batcher, executor, loop):
        await batcher.submit(0)  # teaches that one text takes 10 ms
        await asyncio.gather(*(batcher.enqueue(i, length=30 if i % 2 else 4) for i in range(9)))
        await asyncio.gather(*(batcher.enqueue(i, length=30 if i % 2 else 4) for i in range(9)))
        return [len(items) for _, items in executor.batches[-2:]]

    assert on_virtual_time(scenario, max_batch=4, max_delay_s=0.0, max_waste=0.1) == [4, 4]


def test_runners_work_side_by_side():
    """Four batches on two runners take two rounds."""

    async def scenario(batcher, executor, loop):
        await asyncio.gather(*(batcher.submit(i) for i in range(16)))
        return loop.now

    assert on_virtual_time(scenario, max_batch=4, runners=2) == pytest.approx(0.02)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    """Places are for those who can be answered; the wait that is named grows with the queue."""

    async def scenario(batcher, executor, loop):
        first = batcher.enqueue(0)  # runs
        await first
        running = [batcher.enqueue(1)]
        waiting = [batcher.enqueue(i) for i in range(8)]
        with pytest.raises(QueueFull) as refused:
            batcher.enqueue(99)
        assert batcher.depth == 8
        await asyncio.gather(*running, *waiting)
        return refused.value.retry_after_s

    wait = on_virtual_time(scenario, max_batch=4, max_delay_s=0.0, max_queue=8)
    assert wait > 0.02, "8 wait and 1 runs: three batches of 10 ms"


def test_a_client_that_floods_queues_behind_itself():
    """One client keeps 300 requests in the queue. Another asks now and then, and waits two batches.

    First come, first served would make the quiet one wait for the whole flood.
    """

    async def scenario(batcher, executor, loop):
        flood = loop.create_task(
            offered(batcher, loop, [0.0] * 300 + list(np.arange(0.001, 0.5, 0.001)), client="flood")
        )
        quiet = await offered(batcher, loop, np.arange(0.05, 0.5, 0.03), client="quiet")
        flooded = await flood
        return quiet, flooded

    quiet, flooded = on_virtual_time(scenario, max_batch=8, max_delay_s=0.0, max_queue=400)
    assert not np.isnan(quiet).any(), "the quiet client was refused"
    assert quiet.max() <= 0.02 + 1e-9, f"the quiet client waited {1000 * quiet.max():.0f} ms"
    assert np.nanmax(flooded) > 0.3


def test_a_full_queue_pushes_out_the_one_who_filled_it():
    """The place for the quiet client is taken from the flood's last request."""

    async def scenario(batcher, executor, loop):
        flood = [batcher.enqueue(i, client="flood") for i in range(1 + 8)]
        quiet = batcher.enqueue(100, client="quiet")
        with pytest.raises(QueueFull):
            await flood[-1]
        assert (await quiet).result == 200
        await asyncio.gather(*flood[:-1])

    on_virtual_time(scenario, max_batch=1, max_delay_s=0.0, max_queue=8)


def test_a_request_whose_deadline_has_passed_is_not_run():
    """Nobody waits for it: running it would take the time of those whose answer is still wanted.

    It is told at its deadline, although the runner is stuck for a second.
    """

    async def scenario(batcher, executor, loop):
        stuck = batcher.enqueue(0)
        late = batcher.enqueue(1)
        with pytest.raises(DeadlinePassed):
            await late
        told = loop.now
        await stuck
        return told, [items for _, items in executor.batches], batcher.depth

    told, batches, depth = on_virtual_time(
        scenario, batch_s=lambda n: 1.0, max_batch=1, max_delay_s=0.0, deadline_s=0.1
    )
    assert told == pytest.approx(0.1, abs=0.002)
    assert batches == [[0]]
    assert depth == 0


def test_a_request_whose_client_is_gone_is_not_run():
    """Cancelled while it waits, it takes no place in a batch; the others are not disturbed."""

    async def scenario(batcher, executor, loop):
        futures = [batcher.enqueue(i) for i in range(6)]
        futures[0].cancel()  # runs already: its answer is thrown away
        futures[3].cancel()
        await asyncio.gather(*futures, return_exceptions=True)
        return [items for _, items in executor.batches]

    assert on_virtual_time(scenario, max_batch=2, max_delay_s=0.0) == [[0], [1, 2], [4, 5]]


@pytest.mark.parametrize(
    "broken", [lambda items: 1 / 0, lambda items: [], lambda items: next(iter([]))]
)
def test_a_failing_run_fails_its_own_batch_only(broken):
    """An exception, too few results, even StopIteration: told to that batch; the next one runs."""
    calls = []

    def run(items):
        calls.append(items)
        return broken(items) if len(calls) == 1 else doubled(items)

    async def scenario(batcher, executor, loop):
        first = batcher.enqueue(1)
        second = batcher.enqueue(2)
        with pytest.raises(Exception):  # noqa: B017
            await first
        return (await second).result

    assert on_virtual_time(scenario, run=run, max_delay_s=0.0) == 4


def test_drain_returns_when_the_last_answer_is_there():
    """What was accepted is answered before the process may end."""

    async def scenario(batcher, executor, loop):
        futures = [batcher.enqueue(i) for i in range(9)]
        await batcher.drain()
        return [future.result().result for future in futures], batcher.depth + batcher.running

    results, left = on_virtual_time(scenario, max_batch=2, max_delay_s=0.0)
    assert results == doubled(range(9))
    assert left == 0


SLO_S = 0.05


def overloaded(batch_s, factor, seconds, seed=0, **options):
    """Offer ``factor`` times the capacity of batches of 32 for some seconds, then a fifth of it."""
    capacity = 32 / batch_s(32)
    rng = np.random.default_rng(seed)
    heavy = np.cumsum(rng.exponential(1 / (factor * capacity), int(factor * capacity * seconds)))
    light = heavy[-1] + np.cumsum(rng.exponential(5 / capacity, int(capacity / 5)))
    schedule = np.concatenate([heavy, light])

    async def scenario(batcher, executor, loop):
        return await offered(batcher, loop, schedule)

    latency = on_virtual_time(
        scenario, batch_s=batch_s, max_batch=32, max_delay_s=0.001, max_queue=10_000, **options
    )
    return latency[: len(heavy)], latency[len(heavy) :], capacity * seconds


def test_at_three_times_the_capacity_those_let_in_are_answered_in_time():
    """p99 of the accepted stays under the promise, as many are answered as can be, and it is over
    as soon as the load is.

    Without admission the queue grows for as long as the overload lasts, everybody is late, and the
    server works at full speed for nobody.
    """
    rng = np.random.default_rng(7)
    accepted, after, possible = overloaded(
        lambda n: (0.004 + 0.0002 * n) * rng.uniform(0.8, 1.3), 3, 1.0, slo_s=SLO_S
    )
    answered = accepted[~np.isnan(accepted)]
    p99 = np.sort(answered)[int(0.99 * len(answered))]
    assert p99 <= SLO_S, f"p99 of the accepted is {1000 * p99:.1f} ms"
    assert len(answered) >= 0.8 * possible, f"{len(answered)} answered, {possible:.0f} possible"
    assert not np.isnan(after[50:]).any(), "requests are still refused at a fifth of the load"
    assert after[50:].max() < SLO_S


def test_without_admission_the_same_load_makes_everybody_late():
    """The comparison: nobody is refused, and of the answers hardly one comes in time."""
    rng = np.random.default_rng(7)
    accepted, _, _ = overloaded(lambda n: (0.004 + 0.0002 * n) * rng.uniform(0.8, 1.3), 3, 0.5)
    assert not np.isnan(accepted).any()
    assert (accepted <= SLO_S).mean() < 0.1


def test_a_server_that_becomes_slower_lets_fewer_in():
    """At half the speed, from one moment to the next, the promise holds again soon after."""
    rng = np.random.default_rng(3)
    served = [0]

    def batch_s(n):
        served[0] += n
        return (0.004 + 0.0002 * n) * rng.uniform(0.9, 1.1) * (2 if served[0] > 1500 else 1)

    accepted, _, _ = overloaded(batch_s, 3, 1.5, slo_s=SLO_S)
    last = accepted[2 * len(accepted) // 3 :]
    answered = last[~np.isnan(last)]
    assert len(answered) > 300
    assert np.quantile(answered, 0.99) <= SLO_S


def test_a_slow_model_runs_smaller_batches_instead_of_late_ones():
    """At 1 ms a text, 32 of them take 32 ms: two such batches, and the promise of 50 ms is broken.

    A third of the promise holds 16; throughput is the same, for a batch costs nothing by itself.
    """
    rng = np.random.default_rng(11)
    accepted, _, possible = overloaded(
        lambda n: 0.001 * n * rng.uniform(0.85, 1.2), 3, 1.5, slo_s=SLO_S
    )
    learnt = accepted[len(accepted) // 10 :]  # the first batches teach what a text takes
    assert np.nanquantile(learnt, 0.99) <= SLO_S
    assert (~np.isnan(accepted)).sum() >= 0.8 * possible


def test_one_stuck_batch_does_not_close_the_server():
    """One run takes 5 s. By the estimate nothing could be in time afterwards; and yet it opens."""
    served = [0]

    def batch_s(n):
        served[0] += 1
        return 5.0 if served[0] == 20 else 0.005

    async def scenario(batcher, executor, loop):
        await offered(batcher, loop, np.arange(0, 1, 0.002))
        await batcher.drain()
        return await offered(batcher, loop, loop.now + np.arange(0, 2, 0.002))

    after = on_virtual_time(scenario, batch_s=batch_s, max_batch=8, max_delay_s=0.001, slo_s=SLO_S)
    late = after[len(after) // 2 :]
    assert not np.isnan(late).any(), f"{np.isnan(late).sum()} of {len(late)} are still refused"


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_batch", 0), ("max_delay_s", -0.1), ("max_queue", 0), ("deadline_s", 0), ("runners", 0),
     ("slo_s", 0), ("max_waste", 1.5)],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(option, value):
    """The message says which one, and what it must be."""
    with pytest.raises(InputError, match=option):
        Batcher(doubled, **{option: value})
