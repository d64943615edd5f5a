"""The law of the autoscaler, its simulation, and its loop on a server."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving import autoscaler
from labs.lab4_model_serving.autoscaler import Policy, Signal, State

PLAIN = Policy(target=10.0, max_replicas=100, down_window_s=0, up_pods=100)


def one(replicas: int, value: float | None, policy: Policy = PLAIN) -> int:
    """The decision of a controller without a past."""
    state = State(replicas)
    return autoscaler.desired_replicas(state, Signal(0.0, value), policy).replicas


def run(values: list[float | None], policy: Policy, *, replicas: int = 4, every: float = 5.0):
    """Replicas after each reading."""
    state = State.start(replicas)
    found = []
    for i, value in enumerate(values):
        decision = autoscaler.desired_replicas(state, Signal((i + 1) * every, value), policy)
        state = decision.state
        found.append(decision.replicas)
    return found


@pytest.mark.exercise("4.14")
@pytest.mark.parametrize(
    ("replicas", "value", "expected"),
    [(4, 20, 8), (4, 5, 2), (4, 10.9, 4), (4, 9.1, 4), (4, 11.5, 5), (3, 4, 2), (5, 1, 1)],
)
def test_the_ratio_is_rounded_up_and_a_tenth_is_tolerated(
    replicas: int, value: float, expected: int
) -> None:
    """The documented cases: twice the target doubles, half of it halves, within 10 % nothing.

    Rounded up, because a rounded-down fleet is over its target by construction.
    """
    found = one(replicas, value)
    assert found == expected, f"{replicas} at {value} of 10: {found}, expected {expected}"


@pytest.mark.exercise("4.14")
def test_seven_tenths_of_a_tenth_are_seven_replicas() -> None:
    """10 x 0.07 / 0.1 is 7.000000000000001 in floating point; the eighth replica costs money."""
    found = one(10, 0.07, dataclasses.replace(PLAIN, target=0.1))
    assert found == 7, f"ceil(10 x 0.07 / 0.1) gave {found}, expected 7"


@pytest.mark.exercise("4.14")
def test_a_missing_reading_changes_nothing() -> None:
    """When monitoring is down, the load is unknown and not zero: scaling down would be the outage.

    It is no advice either, so it must not be found in a window later.
    """
    before = State(7, ((0.0, 7),), ())
    decision = autoscaler.desired_replicas(before, Signal(5.0, None), PLAIN)
    assert decision.replicas == 7, f"{decision.replicas} replicas after no reading, expected 7"
    assert decision.state == before, f"the state became {decision.state}, expected {before}"


@pytest.mark.exercise("4.14")
def test_scaling_down_waits_for_the_whole_window() -> None:
    """A pause of a few seconds between two bursts must not cost what the next needs."""
    policy = dataclasses.replace(PLAIN, down_window_s=20)
    found = run([20, 2, 2, 2, 2, 2, 2], policy)  # 8 advised at 5 s; the window ends after 25 s
    expected = [8, 8, 8, 8, 8, 2, 2]
    assert found == expected, f"replicas {found}, expected {expected}"


@pytest.mark.exercise("4.14")
def test_scaling_down_stops_at_the_largest_advice_of_the_window() -> None:
    """The window holds advice, not decisions: the fleet goes to the most that was needed in it."""
    policy = dataclasses.replace(PLAIN, down_window_s=10)
    found = run([5, 5, 7.5, 2.5, 2.5, 2.5], policy)
    # Advice with 4 replicas: 2, 2, 3; 4 was advised at the start (0 s), which 15 s forgets.
    expected = [4, 4, 3, 3, 3, 1]
    assert found == expected, f"replicas {found}, expected {expected}"


@pytest.mark.exercise("4.14")
def test_scaling_up_takes_the_least_advice_of_its_window() -> None:
    """One reading that is off the scale starts nothing when the readings beside it are calm."""
    policy = dataclasses.replace(PLAIN, up_window_s=10)
    found = run([10, 100, 10, 20, 30, 30], policy)
    expected = [4, 4, 4, 4, 4, 8]  # at 30 s the window holds 8, 12 and 12
    assert found == expected, f"replicas {found}, expected {expected}"


@pytest.mark.exercise("4.14")
def test_the_limits_hold_for_the_advice_too() -> None:
    """Advice is cut to [min, max]: a past wish for 60 must not hold the fleet up for a window."""
    policy = dataclasses.replace(PLAIN, min_replicas=2, max_replicas=6, down_window_s=10)
    found = run([150, 1, 1, 1, 1], policy)
    assert found == [6, 6, 6, 2, 2], f"replicas {found}, expected [6, 6, 6, 2, 2]"
    state = autoscaler.desired_replicas(State(4), Signal(0.0, 150), policy).state
    assert state.recommendations == ((0.0, 6),), f"remembered {state.recommendations}, expected 6"


def test_a_rate_limit_counts_from_the_start_of_the_period() -> None:
    """Doubling twice in 15 s would be four times; the default allows double or four more."""
    policy = dataclasses.replace(PLAIN, up_pods=4)
    found = run([100, 100, 100, 100], policy, every=5.0)
    assert found == [8, 8, 8, 16]  # 4 + max(4, 100 %), then not again before 15 s later


def test_scaling_down_by_a_small_share_still_takes_one() -> None:
    """10 % of three replicas is none, and a fleet that can never shrink is a bill."""
    policy = dataclasses.replace(PLAIN, down_percent=10.0, period_s=5.0)
    assert run([1, 1, 1, 1], policy) == [3, 2, 1, 1]


def test_a_cooldown_holds_after_a_change() -> None:
    """What was started has to show its effect before the next decision."""
    policy = dataclasses.replace(PLAIN, cooldown_s=12.0)
    assert run([20, 20, 20, 20], policy) == [8, 8, 8, 16]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1000)), max_size=30),
    st.integers(1, 5),
    st.integers(0, 10),
    st.floats(0, 60),
    st.floats(0, 60),
)
def test_replicas_always_stay_between_the_limits(
    values: list[float | None], least: int, more: int, up: float, down: float
) -> None:
    """Whatever is measured, and whatever the windows."""
    policy = Policy(
        target=3.0,
        min_replicas=least,
        max_replicas=least + more,
        up_window_s=up,
        down_window_s=down,
    )
    for replicas in run(values, policy, replicas=least):
        assert least <= replicas <= least + more


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.floats(0.91, 1.09), st.integers(1, 50))
def test_near_the_target_nothing_ever_moves(ratio: float, replicas: int) -> None:
    """The tolerance is what stops a fleet of 1 from going to 2 at 1 % over its target."""
    assert one(replicas, 10 * ratio) == replicas


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"target": 0.0}, "target"),
        ({"min_replicas": 0}, "scaling to zero"),
        ({"max_replicas": 0}, "max_replicas"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"down_window_s": -1.0}, "down_window_s"),
        ({"down_percent": 0.0}, "down_percent"),
    ],
)
def test_an_impossible_policy_is_refused(change: dict[str, float], named: str) -> None:
    """Before anything is scaled by it."""
    with pytest.raises(InputError, match=named):
        dataclasses.replace(PLAIN, **change)


# --- simulation -------------------------------------------------------------------------------


def simulated(policy: Policy, **options: object):
    from labs.lab4_model_serving.autoscaling_simulation import arrivals, simulate, step_load

    times = arrivals(step_load(15, 80, start_s=100, end_s=250), 400, highest=80, seed=0)
    return simulate(times, policy, service_s=0.1, seconds=400, cold_start_s=10, **options)


STEADY = Policy(target=2.0, min_replicas=2, max_replicas=20, down_window_s=120)


def test_without_hysteresis_the_fleet_flaps() -> None:
    """The same load and target: with memory a few changes of direction, without it dozens."""
    steady = simulated(STEADY)
    flapping = simulated(autoscaler.without_hysteresis(STEADY))
    assert steady.trace.reversals <= 6
    assert flapping.trace.reversals >= 5 * max(1, steady.trace.reversals)
    assert steady.share_within(1000) > flapping.share_within(1000) + 0.2


def test_a_rate_that_the_bottleneck_caps_never_asks_for_more() -> None:
    """Replicas answer 10/s at most, so 11/s a replica is never read, whatever waits outside."""
    capped = simulated(dataclasses.replace(STEADY, target=11.0), signal="served_rate")
    assert capped.trace.replicas.max() <= 4  # as many as low load leaves, and no step up to 20
    assert capped.share_within(1000) < 0.5
    cpu = simulated(dataclasses.replace(STEADY, target=0.6), signal="utilisation", busy_share=0.5)
    assert set(cpu.trace.replicas) == {2}


def test_the_simulation_serves_an_empty_queue_at_once() -> None:
    """A replica that is free serves without waiting: the mean latency is the service time."""
    from labs.lab4_model_serving.autoscaling_simulation import simulate

    times = np.arange(0, 400, 2.0)
    policy = Policy(target=2.0, min_replicas=10, max_replicas=10)
    result = simulate(times, policy, service_s=0.1, seconds=500)
    assert result.refused == 0
    assert result.latencies.mean() == pytest.approx(0.1, rel=0.25)
    assert result.trace.changes == 0
    assert result.trace.replica_seconds == 10 * 500


def test_a_queue_that_is_full_refuses() -> None:
    """One replica, 20 requests at once, room for 5: one is served, five wait, 14 are refused."""
    from labs.lab4_model_serving.autoscaling_simulation import simulate

    policy = Policy(target=2.0, max_replicas=1)
    result = simulate(np.zeros(20), policy, service_s=0.1, seconds=60, queue_size=5)
    assert result.refused == 14


def test_arrivals_follow_the_rate() -> None:
    """Thinning keeps the share of candidates that the rate says."""
    from labs.lab4_model_serving.autoscaling_simulation import arrivals, step_load

    times = arrivals(step_load(10, 100, start_s=50, end_s=100), 150, highest=100, seed=1)
    inside = ((times >= 50) & (times < 100)).sum()
    assert inside == pytest.approx(5000, abs=5 * 5000**0.5)
    assert len(times) - inside == pytest.approx(1000, abs=5 * 1000**0.5)


# --- the loop ---------------------------------------------------------------------------------


class Scripted:
    """A server whose queue is a script; None raises, as a server that does not answer."""

    def __init__(self, queue: list[float | None]) -> None:
        self.queue = queue
        self.asked: list[int] = []
        self.now = 0.0
        self.replicas = 1

    def scale(self, replicas: int) -> None:
        self.asked.append(replicas)
        self.replicas = replicas

    def ready(self) -> int:
        return self.replicas

    def queue_depth(self) -> float:
        import httpx

        value = self.queue.pop(0)
        if value is None:
            raise httpx.ConnectError("refused")
        return value

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return not self.queue


def test_the_loop_scales_up_holds_without_readings_and_scales_down() -> None:
    """One call a change and none otherwise; a server that does not answer keeps its workers."""
    from labs.lab4_model_serving.autoscaling_run import control

    server = Scripted([0.0, 40.0, 40.0, None, None, 0.0, 0.0, 0.0])
    policy = Policy(target=10.0, max_replicas=4, down_window_s=4.0)
    readings = control(server, policy, interval_s=1.0, wait=server.wait, clock=lambda: server.now)
    assert [reading.replicas for reading in readings] == [1, 1, 4, 4, 4, 4, 4, 4, 1]
    assert server.asked == [4, 1]
    assert readings[4].reason == "hold: no reading"
    assert readings[4].queue is None


def test_a_server_that_refuses_to_scale_ends_the_loop() -> None:
    """Otherwise the controller goes on with a fleet that exists in its head only."""
    from labs.lab4_model_serving.autoscaling_run import control

    class Refusing(Scripted):
        def scale(self, replicas: int) -> None:
            raise InputError("no such model")

    server = Refusing([40.0, 40.0])
    with pytest.raises(InputError, match="no such model"):
        control(server, Policy(target=10.0), interval_s=1.0, wait=server.wait)


@pytest.mark.slow
def test_torchserve_gets_a_worker_under_load(tmp_path: Path) -> None:
    """The whole loop on a real server, with a load that one worker cannot carry."""
    from labs.lab4_model_serving.archive import build_archive
    from labs.lab4_model_serving.autoscaling_run import (
        WAITING_HANDLER,
        TorchServeWorkers,
        autoscale_under_load,
    )
    from labs.lab4_model_serving.autoscaling_simulation import arrivals, step_load
    from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

    archive = build_archive("waiting", "1.0", WAITING_HANDLER, [], tmp_path / "store")
    times = arrivals(step_load(5, 70, start_s=0.5, end_s=4), 6, highest=70, seed=0)
    policy = Policy(target=3.0, max_replicas=2)  # the window is longer than the test
    with torchserve(
        tmp_path / "store", [ModelSpec("waiting", archive)], folder=tmp_path, queue_size=1000
    ) as server:
        result = autoscale_under_load(
            TorchServeWorkers(server, "waiting", "1.0"),
            policy,
            server.prediction_url("waiting"),
            [b'{"text": "x"}'],
            times,
            headers=server.headers,
            interval_s=0.25,
            timeout=30,
        )
    assert result.load.failed == 0, result.load.errors
    assert result.trace.replicas.max() == 2
    assert max(reading.queue or 0 for reading in result.readings) > 3
