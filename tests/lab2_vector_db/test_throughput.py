import threading
import time

import faiss
import numpy as np
import pytest

from common.errors import InputError
from common.latency import LatencySummary
from labs.lab2_vector_db.throughput import (
    OpenLoop,
    batch_throughput,
    closed_loop,
    highest_rate,
    open_loop,
    poisson_arrivals,
)

QUERIES = np.arange(30, dtype=np.float32).reshape(10, 3)


class Stalling:
    """Answers in 2 ms, but once it stalls for ``stall_s``, and nobody is answered meanwhile."""

    def __init__(self, at_s=0.3, stall_s=0.4):
        self.at_s, self.stall_s = at_s, stall_s
        self.lock, self.first, self.stalled = threading.Lock(), None, False

    def __call__(self, queries):
        with self.lock:
            now = time.perf_counter()
            self.first = self.first or now
            if not self.stalled and now > self.first + self.at_s:
                self.stalled = True
                time.sleep(self.stall_s)
        time.sleep(0.002)


def test_an_open_loop_sees_the_stall_that_a_closed_loop_hides():
    """One search of many stalls 0.4 s. The closed loop sends nothing meanwhile: its p99 is fine.

    In the open loop users keep coming, about a fifth of them during the stall. Both worked on the
    same search. The open loop's own `service` view hides it as well.
    """
    closed = closed_loop(Stalling(), QUERIES, clients=2, seconds=2.0, warmup=0)
    opened = open_loop(Stalling(), QUERIES, 150, seconds=2.0, workers=2, warmup=0)
    assert closed.latency.max_ms > 390
    assert closed.latency.p99_ms < 100
    assert opened.latency.p99_ms > 200
    assert opened.service.p95_ms < 100
    assert opened.unanswered == 0


def test_above_capacity_the_queue_grows_and_the_result_says_so():
    """10 ms a search on one worker is 100/s at most; offered are 300/s."""
    result = open_loop(
        lambda queries: time.sleep(0.01),
        QUERIES,
        300,
        seconds=0.5,
        workers=1,
        patience_s=0.1,
        warmup=0,
    )
    assert result.qps <= 100
    assert result.unanswered > 0
    assert f"{result.unanswered} of {result.n} not taken up" in result.latency.how
    assert result.latency.n == result.n == len(poisson_arrivals(300, 0.5, 0))
    assert result.service.n == result.n - result.unanswered
    assert result.latency.p99_ms > 200
    assert 10 <= result.service.p50_ms < result.latency.p50_ms


def test_the_pool_of_workers_is_bounded_and_each_runs_on_one_faiss_thread():
    lock, running, most, threads = threading.Lock(), [0], [0], set()

    def answer(queries):
        assert queries.shape == (1, 3)
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            threads.add(faiss.omp_get_max_threads())
        time.sleep(0.003)
        with lock:
            running[0] -= 1

    open_loop(answer, QUERIES, 500, seconds=0.3, workers=3)
    assert most[0] <= 3
    closed_loop(answer, QUERIES, clients=4, seconds=0.2)
    assert most[0] <= 4
    assert threads == {1}


def test_more_clients_than_cores_wait_for_each_other():
    """Little's law: clients = qps * mean latency."""
    lock = threading.Lock()

    def answer(queries):
        with lock:
            time.sleep(0.002)

    for clients in (1, 8):
        loop = closed_loop(answer, QUERIES, clients=clients, seconds=0.5)
        assert loop.n == loop.latency.n
        in_flight = loop.qps * loop.latency.mean_ms / 1000
        assert in_flight == pytest.approx(clients, rel=0.15)


def test_every_query_is_asked_in_turn():
    seen = []
    closed_loop(lambda q: seen.append(q[0, 0]) or time.sleep(1e-3), QUERIES, clients=1, seconds=0.1)
    assert len(seen) > 20
    np.testing.assert_array_equal(seen[:10], QUERIES[:, 0])


def test_an_error_of_the_search_ends_the_run_and_is_raised():
    calls = iter(range(10**6))

    def answer(queries):
        if next(calls) >= 30:
            raise RuntimeError("the shard is gone")
        time.sleep(1e-3)

    for run in (
        lambda: closed_loop(answer, QUERIES, clients=2, seconds=30),
        lambda: open_loop(answer, QUERIES, 200, seconds=30),
    ):
        start = time.perf_counter()
        with pytest.raises(RuntimeError, match="the shard is gone"):
            run()
        assert time.perf_counter() - start < 10


def test_arrivals_are_poisson():
    """Counts of a Poisson process have a variance equal to their mean; even spacing has none."""
    arrivals = poisson_arrivals(100, 200, seed=0)
    assert (np.diff(arrivals) >= 0).all()
    assert arrivals[0] >= 0
    assert arrivals[-1] < 200
    counts = np.bincount(arrivals.astype(int), minlength=200)
    assert counts.mean() == pytest.approx(100, rel=0.03)
    assert counts.var() == pytest.approx(100, rel=0.35)
    np.testing.assert_array_equal(arrivals, poisson_arrivals(100, 200, seed=0))
    assert len(poisson_arrivals(100, 200, seed=1)) != len(arrivals)


def test_a_batch_counts_all_of_its_queries():
    before = faiss.omp_get_max_threads()
    shapes, threads = set(), set()

    def answer(queries):
        shapes.add(queries.shape)
        threads.add(faiss.omp_get_max_threads())
        time.sleep(0.004)

    result = batch_throughput(answer, QUERIES, batch_size=4, threads=1, seconds=0.2)
    assert shapes == {(4, 3)}
    assert threads == {1}
    assert result.n == 4 * result.latency.n
    assert result.qps == pytest.approx(4 * 1000 / result.latency.mean_ms, rel=0.01)
    assert faiss.omp_get_max_threads() == before


def run_at(rate, p99_ms, unanswered=0):
    latency = LatencySummary.of([p99_ms / 1000], how="made up")
    return OpenLoop(rate, 2, 1, unanswered, 1.0, rate, latency, latency)


def test_the_highest_rate_is_found_between_the_bounds():
    """p99 passes 10 ms at 730/s exactly."""
    asked = []

    def measure(rate):
        asked.append(rate)
        return run_at(rate, 10 * rate / 730)

    found = highest_rate(measure, 100, 1600, p99_ms=10, tries=8)
    assert 715 < found.qps < 730
    assert not found.at_limit
    assert asked[:2] == [100, 1600]
    assert len(found.tried) == 10
    assert all(each.offered_qps < 730 for each in found.tried if each.latency.p99_ms < 10)


def test_a_limit_that_no_rate_or_every_rate_meets_is_told_apart():
    assert highest_rate(lambda rate: run_at(rate, 20), 1, 8, p99_ms=10).best is None
    assert highest_rate(lambda rate: run_at(rate, 20), 1, 8, p99_ms=10).qps == 0
    every = highest_rate(lambda rate: run_at(rate, 5), 1, 8, p99_ms=10)
    assert every.at_limit
    assert every.qps == 8


def test_a_rate_with_unanswered_queries_does_not_pass():
    found = highest_rate(lambda rate: run_at(rate, 5, unanswered=int(rate > 3)), 1, 8, p99_ms=10)
    assert found.best is not None
    assert found.best.offered_qps <= 3


def test_a_real_index_answers_in_all_three_views():
    rng = np.random.default_rng(0)
    index = faiss.index_factory(16, "IVF16,Flat")
    vectors = rng.standard_normal((2_000, 16)).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    queries = vectors[:100]

    def answer(batch):
        return index.search(batch, 5)

    closed = closed_loop(answer, queries, clients=2, seconds=0.3)
    opened = open_loop(answer, queries, closed.qps / 10, seconds=0.3)
    batches = batch_throughput(answer, queries, batch_size=50, seconds=0.1)
    for result in (closed, opened, batches):
        assert result.n > 0
        assert result.qps > 0
        assert result.latency.p50_ms <= result.latency.p99_ms


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda f: closed_loop(f, QUERIES, clients=0), "clients = 0"),
        (lambda f: closed_loop(f, QUERIES, seconds=0), "seconds = 0"),
        (lambda f: open_loop(f, QUERIES, 0), "rate = 0"),
        (lambda f: open_loop(f, QUERIES, 10, workers=0), "workers = 0"),
        (lambda f: open_loop(f, QUERIES, 0.01, seconds=0.01), "at least one query"),
        (lambda f: batch_throughput(f, QUERIES, batch_size=11), "batch_size = 11"),
        (lambda f: closed_loop(f, QUERIES * np.nan), "NaN"),
        (lambda f: highest_rate(f, 5, 5, p99_ms=10), "0 < low < high"),
    ],
)
def test_bad_input_is_one_clear_error(run, message):
    with pytest.raises(InputError, match=message):
        run(lambda queries: None)
