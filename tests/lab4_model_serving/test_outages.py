"""What a replica's going costs, with and without the right configuration."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from labs.lab4_model_serving.load_generator import LoadResult
from labs.lab4_model_serving.outages import Outage, compare_outages, load_with_outage
from labs.lab4_model_serving.replicas import bodies_of, echo_replica


def test_an_outage_counts_the_lost_and_takes_percentiles_by_time() -> None:
    """A lost request is as slow as its timeout in the part of the run where it was lost."""
    load = LoadResult(
        latencies=np.array([0.01, 0.02, np.inf, 0.03]),
        lag=np.zeros(4),
        duration=4.0,
        offered_rate=1.0,
        timeout=5.0,
        how="",
        errors={"HTTP 502": 1},
    )
    outage = Outage(load, np.array([0.0, 1.0, 2.0, 3.0]), 1.5, 2.5)
    assert outage.lost == 1
    assert outage.p99_ms(0, 1.5) == pytest.approx(20)
    assert outage.p99_ms(1.5, 2.5) == pytest.approx(5000)
    assert np.isnan(outage.p99_ms(8, 9))


def test_an_outage_that_ends_before_it_begins_is_refused() -> None:
    """Before any load is sent."""
    with pytest.raises(InputError, match="down_s, up_s"):
        load_with_outage(
            "http://127.0.0.1:1",
            [b"{}"],
            np.array([0.0]),
            headers={},
            take_away=lambda: None,
            bring_back=lambda: None,
            down_s=2.0,
            up_s=1.0,
        )


@pytest.mark.skipif(
    shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin") is None,
    reason="nginx is not installed: apt-get install nginx",
)
@pytest.mark.slow
def test_a_killed_replica_costs_requests_only_where_they_may_not_be_repeated(
    tmp_path: Path,
) -> None:
    """About ten requests are in the replica when it dies: nginx asks the other one, if it may."""
    spec = echo_replica(service_ms=100, concurrency=50)
    cases = compare_outages(
        spec, "/predictions/echo", bodies_of(["a"]), folder=tmp_path, count=2, seconds=2.4
    )
    killed, no_repeats, drained = cases
    assert killed.outage.lost == 0, killed.outage.load.errors
    assert killed.repeated >= 1
    assert no_repeats.outage.lost >= 1
    assert set(no_repeats.outage.load.errors) == {"HTTP 503"}
    assert drained.outage.lost == 0, drained.outage.load.errors
    assert drained.repeated == 0
    for case in cases:
        assert np.isfinite(case.outage.p99_ms(0, 0.4)), case.name


def test_an_outage_of_the_only_replica_is_refused(tmp_path: Path) -> None:
    """There would be nothing to compare."""
    with pytest.raises(InputError, match="nothing is left to answer"):
        compare_outages(echo_replica(), "/", [b"{}"], folder=tmp_path, count=1)
