"""The search for the highest rate within an SLO, when a trial is decided, and the plain search."""

import numpy as np
import pytest

from common.errors import InputError
from labs.lab4_model_serving import rate_search
from labs.lab4_model_serving.early_stopping import STOP_TEST_S, EarlyStop, Slo
from labs.lab4_model_serving.load_result import LoadResult
from labs.lab4_model_serving.reference_server import reference_server

SLO = Slo(p99_ms=50, failed_share=0.001)


def made(rate, *, median_ms=2.0, p99_ms=10.0, failed=0, n=1000) -> LoadResult:
    """A run of ``n`` requests: 3 % at ``p99_ms``, the rest at the median, ``failed`` of them not.

    What is answered per second lags 4 % behind what was offered, as the last answers come late.
    """
    latencies = np.full(n, median_ms / 1000)
    latencies[: 3 * n // 100] = p99_ms / 1000
    latencies[n - failed :] = np.inf
    duration = 1.04 * n / rate
    return LoadResult(latencies, np.zeros(n), duration, rate, 5.0, "made for this test")


def queue_p99(rate: float, capacity: float = 1000.0) -> float:
    """The p99 (ms) of an M/M/1 queue: 50 ms at 908/s when the capacity is 1,000/s."""
    return 4605 / (capacity - rate) if rate < capacity else 5000.0


class Server:
    """Runs of a server by rate; notes which rates and attempts were asked for."""

    def __init__(self, run):
        self.run = run
        self.asked = []

    def __call__(self, rate, attempt):
        self.asked.append((rate, attempt))
        return self.run(rate)

    @property
    def rates(self):
        return [rate for rate, _ in self.asked]


def found_with(run, confirm_run=None, **bounds):
    measure, confirm = Server(run), Server(confirm_run or run)
    options = {"low": 100, "high": 4000, "precision": 0.02, **bounds}
    return rate_search.search_rate(measure, confirm, SLO, **options), measure, confirm


@pytest.mark.exercise("4.19")
def test_the_highest_rate_is_found_by_the_tail_and_not_by_the_mean():
    """The p99 leaves the SLO at 908/s, the mean only at 998/s: a promise about the p99 ends at 908.

    Most requests are fast even when the tail is long gone.
    """
    found, *_ = found_with(lambda rate: made(rate, p99_ms=queue_p99(rate)))
    assert 908 / 1.02 <= found.rate <= 908, f"found {found.rate:.0f}/s, expected 890 to 908"
    assert not found.at_limit, "4,000/s did not hold, so the search's bound was not the limit"


@pytest.mark.exercise("4.19")
def test_a_rate_at_which_requests_fail_does_not_hold():
    """Above 300/s the server refuses 5 of 1,000, at once, and the p99 stays at 10 ms.

    Fewer failures than 1 % leave no trace in a p99; the SLO allows 1 in 1,000.
    """
    found, *_ = found_with(lambda rate: made(rate, failed=5 if rate > 300 else 1))
    assert 300 / 1.02 <= found.rate <= 300, f"found {found.rate:.0f}/s, expected 294 to 300"


@pytest.mark.exercise("4.19")
def test_the_rate_is_the_offered_one():
    """What was offered and held is the promise; what came back per second is 4 % lower here.

    At an overload the difference is everything: the server answers its capacity, whatever comes.
    """
    found, _, confirm = found_with(lambda rate: made(rate, p99_ms=queue_p99(rate)))
    assert found.rate == pytest.approx(confirm.rates[-1]), (
        f"reported {found.rate:.1f}/s, the confirming run was offered {confirm.rates[-1]:.1f}/s"
    )
    assert found.confirmed.result.offered_rate == pytest.approx(found.rate)


@pytest.mark.exercise("4.19")
def test_the_result_is_a_run_of_its_own_and_not_the_luckiest_trial():
    """The short trials flatter: held up to 908/s; the long run holds up to 800/s only.

    What was chosen for its measurement measures worse the next time, so it is measured again, and
    again one step below when it does not hold.
    """
    found, measure, confirm = found_with(
        lambda rate: made(rate, p99_ms=queue_p99(rate)),
        lambda rate: made(rate, p99_ms=queue_p99(rate, capacity=892)),
        confirmations=20,
    )
    assert confirm.asked, "the candidate was never measured anew"
    assert 800 / 1.02 <= found.rate <= 800, f"found {found.rate:.0f}/s, expected 784 to 800"
    steps = np.array(confirm.rates[:-1]) / np.array(confirm.rates[1:])
    assert steps == pytest.approx(1.02), f"steps down by {steps}, expected 1 + precision"
    assert not any(trial.held for trial in found.confirmations[:-1]), "it went on after one held"
    assert max(measure.rates) == 4000, f"highest trial {max(measure.rates)}"


@pytest.mark.exercise("4.19")
def test_nothing_that_was_not_confirmed_is_reported():
    """No confirming run holds: there is no rate, and at most ``confirmations`` were made."""
    found, _, confirm = found_with(
        lambda rate: made(rate), lambda rate: made(rate, p99_ms=80), confirmations=3
    )
    assert found.confirmed is None, f"{found.rate:.0f}/s was reported, no run confirmed it"
    assert found.rate == 0, f"rate {found.rate}, expected 0"
    assert len(confirm.asked) == 3, f"{len(confirm.asked)} confirming runs, expected 3"


@pytest.mark.exercise("4.19")
def test_no_two_runs_have_the_same_arrivals():
    """Each run has its own attempt, confirming ones too: the same arrivals bring the same luck."""
    _, measure, confirm = found_with(
        lambda rate: made(rate, p99_ms=queue_p99(rate)), lambda rate: made(rate, p99_ms=80)
    )
    attempts = [attempt for _, attempt in measure.asked + confirm.asked]
    assert len(set(attempts)) == len(attempts), f"attempts {attempts} repeat"


@pytest.mark.exercise("4.19")
def test_the_bounds_of_the_search_end_it():
    """Nothing holds: one trial, at the lowest rate. Everything holds: the highest, and a note."""
    found, measure, confirm = found_with(lambda rate: made(rate, p99_ms=80))
    assert (found.rate, measure.rates, confirm.rates) == (0, [100], []), (
        f"rate {found.rate}, trials {measure.rates}, confirmed {confirm.rates}"
    )
    found, measure, confirm = found_with(lambda rate: made(rate))
    assert (found.rate, confirm.rates) == (4000, [4000]), f"{found.rate}, {confirm.rates}"
    assert found.at_limit, "the highest rate held, so the server may do more"
    assert len(measure.rates) == 2, f"{len(measure.rates)} trials, the two bounds were enough"


def test_the_lowest_rate_that_missed_bounds_the_answer_from_above():
    found, *_ = found_with(lambda rate: made(rate, p99_ms=queue_p99(rate)))
    assert found.rate < 908 <= found.lowest_missed
    assert found.lowest_missed / found.rate < 1.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0}, "must satisfy 0 < low < high"),
        ({"low": 5000}, "must satisfy 0 < low < high"),
        ({"precision": 0}, "precision = 0 must be > 0"),
        ({"confirmations": 0}, "confirmations = 0 must be >= 1"),
    ],
)
def test_a_search_that_cannot_end_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        found_with(lambda rate: made(rate), **options)


def test_a_borderline_trial_is_one_that_chance_decides():
    """10 of 1,000 late is 1 %; 30 of 1,000 is not, nor is none."""
    assert rate_search.is_borderline(with_late(10), SLO)
    assert not rate_search.is_borderline(with_late(30), SLO)
    assert not rate_search.is_borderline(with_late(0), SLO)


def with_late(late, n=1000):
    latencies = np.full(n, 0.01)
    latencies[:late] = 0.08
    return LoadResult(latencies, np.zeros(n), 1.0, float(n), 5.0, "made", errors={"HTTP 503": 1})


def test_the_second_run_of_a_borderline_trial_is_whole(monkeypatch):
    """Cut at its first late request too many it would be the worse half of a run."""
    stops = []

    def load_http(url, bodies, schedule, *, stop, **_):
        stops.append(stop)
        return with_late(10)

    monkeypatch.setattr("labs.lab4_model_serving.load_generator.load_http", load_http)
    monkeypatch.setattr(
        "labs.lab4_model_serving.closed_loop.load_http_closed", lambda *_, **__: with_late(0)
    )
    rate_search.find_rate("http://none/", [b"{}"], SLO, low=400, high=4000)
    first, second = stops
    assert first is not None
    assert second is None, "the second run may end early"


def test_two_runs_are_judged_as_one():
    both = rate_search.pooled(with_late(10), with_late(2))
    assert both.n == 2000
    assert (both.latencies > 0.05).sum() == 12
    assert both.errors == {"HTTP 503": 2}
    assert both.duration == 2.0
    assert "two runs" in both.summary.how


def stop_after(stop, latencies, rate=100.0):
    """When (s) and why a trial with these latencies ends, asked every 50 ms."""
    due = np.arange(len(latencies)) / rate
    for now in np.arange(0.05, due[-1] + 0.05, 0.05):
        came = int(np.searchsorted(due, now))
        if reason := stop(due[:came], np.minimum(latencies[:came], now - due[:came]), now):
            return now, reason
    return None, ""


def test_a_trial_that_cannot_hold_any_more_ends_at_once():
    """Of 1,000 requests 9 may be late; when the 10th is, no p99 below the limit is left."""
    stop = EarlyStop(SLO, planned=1000, seconds=10)
    assert stop.allowed == 9
    latencies = np.full(1000, 0.01)
    latencies[50:59] = 0.2
    assert "missed" not in stop_after(stop, latencies)[1]
    latencies[59] = 0.2
    when, reason = stop_after(stop, latencies)
    assert reason.startswith("missed: 10 of at most 9 late requests"), reason
    assert when < 1


def test_an_early_end_never_changes_the_verdict_of_a_miss():
    """Random runs near the limit: whenever it stopped for a miss, the whole run missed too."""
    rng = np.random.default_rng(0)
    stop = EarlyStop(SLO, planned=1000, seconds=10, may_hold=False)
    verdicts = []
    for _ in range(60):
        latencies = np.where(rng.random(1000) < 0.0095, 0.2, 0.01)
        missed = np.sort(latencies)[990] >= 0.05
        verdicts.append(missed)
        assert bool(stop_after(stop, latencies)[1]) == missed
    assert 5 < sum(verdicts) < 55


def test_failures_beyond_the_slo_end_a_trial():
    """One of 1,000 may fail; with the second the SLO is missed, long before the p99 is."""
    stop = EarlyStop(SLO, planned=1000, seconds=10)
    due = np.arange(100) / 100
    latencies = np.full(100, 0.01)
    latencies[:1] = np.inf
    assert stop(due, latencies, 1.0) is None
    latencies[:2] = np.inf
    assert stop(due, latencies, 1.0) == "missed: 2 requests failed within 1.0 s"


def test_a_trial_that_holds_ends_when_the_binomial_test_says_so_and_not_before_the_minimum():
    """No late one of 3,000: never before two seconds; a run to confirm is not cut at all."""
    latencies = np.full(3000, 0.01)
    stop = EarlyStop(SLO, planned=3000, seconds=10)
    when, reason = stop_after(stop, latencies, rate=300)
    assert reason.startswith("held: 0 of "), reason
    assert 2 <= when < 4
    confirming = EarlyStop(SLO, planned=3000, seconds=10, may_hold=False)
    assert stop_after(confirming, latencies, rate=300) == (None, "")


def test_a_rate_that_does_not_hold_is_passed_early_no_more_often_than_promised():
    """Exactly 1 % late, 1,000/s for 3 s: at 99 % confidence at most 1 % of trials may end as held.

    20 looks a second are 20 chances to be lucky, and each has to be paid for.
    """
    rng = np.random.default_rng(0)
    stop = EarlyStop(Slo(50, 1.0), planned=10**6, seconds=3)
    due = np.arange(3000) / 1000
    looks = np.arange(0.05, 3.0, STOP_TEST_S)
    runs = 2000
    passed = 0
    for _ in range(runs):
        latencies = np.where(rng.random(3000) < 0.01, 0.2, 0.01)
        for now in looks[looks >= 2]:
            came = int(np.searchsorted(due, now))
            if stop(due[:came], np.minimum(latencies[:came], now - due[:came]), now):
                passed += 1
                break
    assert passed <= 0.01 * runs, f"{passed} of {runs} trials were passed, at most {runs // 100}"


def test_requests_still_under_way_say_nothing_for_a_rate_that_may_hold():
    """2,000 requests came within the last 40 ms and wait: none is late yet, none is in time."""
    stop = EarlyStop(SLO, planned=5000, seconds=10)
    due = np.linspace(2.96, 3.0, 2000)
    assert stop(np.concatenate([[0.0], due]), np.concatenate([[0.01], 3.0 - due]), 3.0) is None


@pytest.mark.slow
def test_the_capacity_of_a_known_server_is_found():
    """One worker of 1 ms does 1,000/s: the highest rate is below that, and 4,000/s ends at once.

    The bounds are wide, since the runs are short and the machine may be busy.
    """
    with reference_server(service_ms=1) as url:
        found = rate_search.find_rate(
            url,
            [b"{}"],
            Slo(p99_ms=150),
            low=400,
            high=4000,
            trial_s=0.6,
            confirm_s=0.6,
            warmup_s=0.2,
            precision=0.8,
        )
    tried = [(trial.rate, trial.held) for trial in found.trials]
    assert tried[0] == (400, True), tried
    assert tried[1] == (4000, False), tried
    assert found.trials[1].result.stopped.startswith("missed"), found.trials[1].result.stopped
    assert 400 <= found.rate < 1200, tried


def result_with_p99(ms: float) -> LoadResult:
    return LoadResult(
        np.full(1000, ms / 1000), np.zeros(1000), 1.0, 1000.0, 5.0, "made for this test"
    )


def test_the_plain_search_finds_the_highest_rate_below_the_limit():
    """Latency of an M/M/1 queue with 1,000/s of capacity: p99 < 50 ms up to about 908/s."""

    def measure(rate):
        return result_with_p99(1000 * 4.6 / (1000 - rate) if rate < 1000 else 5000)

    search = rate_search.max_rate(measure, 100, 4000, p99_limit_ms=50, tries=12)
    found = max(rate for rate, result in search.tried if result.summary.p99_ms < 50)
    assert found == pytest.approx(908, rel=0.02)
    assert not search.at_limit


def test_the_plain_search_says_when_even_the_lowest_rate_misses_the_limit():
    search = rate_search.max_rate(lambda rate: result_with_p99(80), 100, 1000, p99_limit_ms=50)
    assert search.best is None
    assert search.qps == 0
    assert len(search.tried) == 1
