"""What the generator can do, and the server of known capacity that it is checked against."""

import numpy as np
import pytest

from common.errors import InputError
from labs.lab4_model_serving.calibration import calibrate
from labs.lab4_model_serving.load_generator import load_http
from labs.lab4_model_serving.reference_server import Worker, reference_server


def test_a_worker_does_one_request_after_the_other():
    """Requests at 0, 0 and 5 s of 2 s each: done at 2, 4 and 7."""
    worker = Worker(2.0)
    assert [worker.take(t) for t in (0.0, 0.0, 5.0)] == [2.0, 4.0, 7.0]


def test_a_full_queue_refuses_and_takes_again_when_there_is_room():
    """One in work and one waiting; the third is refused, and after 2 s there is room."""
    worker = Worker(2.0, queue=1)
    assert [worker.take(t) for t in (0.0, 0.0, 0.0, 2.5)] == [2.0, 4.0, None, 6.0]


@pytest.mark.slow
def test_the_rate_of_a_calibration_is_one_that_was_kept():
    """The generator keeps up with the lowest rate and is not asked for more than the highest."""
    found = calibrate(low=50, high=400, seconds=0.3, lag_limit_ms=200, refinements=1)
    assert found.rate >= 50
    assert found.best is not None
    assert found.best.failed == 0
    assert max(rate for rate, _ in found.tried) <= 400


def test_a_stall_of_the_server_is_seen_by_everybody_who_came_in_it():
    """The process stops for 0.3 s: requests due in it wait for its end, one 0.2 s into it 0.1 s."""
    with reference_server(stall=(0.1, 0.3)) as url:
        result = load_http(url, [b"{}"], np.arange(0, 0.6, 0.01))
    late = np.flatnonzero(result.latencies > 0.05)
    assert 20 <= len(late) <= 45, f"{len(late)} of 60 waited"
    assert result.latencies.max() > 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"service_ms": -1}, "service_ms = -1 must be >= 0"),
        ({"queue": -1}, "queue = -1 must be >= 0"),
        ({"stall": (1.0, -1.0)}, "must be two times >= 0"),
    ],
)
def test_a_server_that_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message), reference_server(**options):
        pass


def test_a_calibration_needs_an_ascending_range():
    with pytest.raises(InputError, match="low, high"):
        calibrate(low=10, high=5)
