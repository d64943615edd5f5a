"""Replicas that die and come back, and the balancing policies in simulated time."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from common.errors import InputError, RunError
from labs.lab4_model_serving import balancing
from labs.lab4_model_serving.replicas import ReplicaSpec, echo_replica, replicas


@pytest.mark.slow
def test_a_killed_replica_is_gone_and_comes_back_on_its_port(tmp_path: Path) -> None:
    """So that a balancer finds it again without a new configuration."""
    with replicas(echo_replica(), 1, folder=tmp_path) as fleet:
        url = f"http://127.0.0.1:{fleet.ports[0]}/ping"
        assert httpx.get(url, trust_env=False).is_success
        with pytest.raises(InputError, match="a replica that runs"):
            fleet.start(0)
        fleet.kill(0)
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, trust_env=False)
        with pytest.raises(InputError, match="does not run"):
            fleet.kill(0)
        fleet.start(0)
        assert httpx.get(url, trust_env=False).is_success
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_a_replica_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The tail of its own log, and not a timeout."""
    spec = ReplicaSpec(lambda port: ["/bin/sh", "-c", "echo no model there; exit 3"])
    with (
        pytest.raises(RunError, match="no model there"),
        replicas(spec, 1, folder=tmp_path),
    ):
        pass
    with pytest.raises(InputError, match="count"), replicas(spec, 0, folder=tmp_path):
        pass


# --- balancing --------------------------------------------------------------------------------


def p99(**options: object) -> dict[str, float]:
    return {
        name: balancing.simulate_balancing(name, choose, requests=8000, **options).p99
        for name, choose in balancing.POLICIES
    }


def test_looking_at_two_replicas_is_nearly_as_good_as_looking_at_all() -> None:
    """Unequal requests and one slower replica: blind policies queue, the others do not."""
    found = p99(speeds=(1.0,) * 7 + (0.75,))
    assert found["least connections"] < found["power of two choices"] < found["round robin"] / 1.5
    assert found["round robin"] < found["random"]


def test_round_robin_is_fine_while_everything_is_equal() -> None:
    """Equal requests on equal replicas: evenly dealt is evenly loaded; random is not."""
    found = p99(speeds=(1.0,) * 8, spread=0.0)
    assert found["round robin"] < 1.5 * found["least connections"]
    assert found["random"] > 3 * found["round robin"]


def test_least_connections_gives_a_slow_replica_less() -> None:
    """It knows nothing of speeds: a slow replica is simply more often the busy one."""
    result = balancing.compare_balancing()[-1]
    assert result.requests[-1] < 0.9 * result.requests[:-1].mean()
    assert result.requests.sum() == len(result.latencies)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"load": 1.0}, "load"), ({"speeds": (1.0, 0.0)}, "speeds"), ({"requests": 0}, "requests")],
)
def test_impossible_simulations_are_refused(options: dict[str, object], named: str) -> None:
    """At a load of 1 the answer is the length of the run."""
    with pytest.raises(InputError, match=named):
        balancing.simulate_balancing(
            "x", balancing.round_robin, **{"speeds": (1.0, 1.0), **options}
        )
