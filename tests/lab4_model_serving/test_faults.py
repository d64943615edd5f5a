"""A server that is broken under load: counted errors, its own recovery, no wrong answers."""

import sys
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil
import pytest

from common.errors import InputError
from common.ports import free_port
from common.process import Child, supervised
from labs.lab4_model_serving import faults
from labs.lab4_model_serving.archive import archive_bundle
from labs.lab4_model_serving.predictor import Predictor
from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

TEXTS = [f"{word} {n}" for n in range(30) for word in ("pay", "when is", "what")]


@dataclass
class Sleeper:
    child: Child
    headers: dict


@contextmanager
def sleeper():
    code = "import time; print('ready', flush=True); time.sleep(60)"
    with supervised([sys.executable, "-c", code]) as child:
        child.output.readline()
        yield Sleeper(child, {"number": child.pid})


def test_recovery_is_the_last_failure_after_the_fault():
    """Failures before the fault are not its own; one at the very end means: not recovered."""
    schedule = np.arange(10.0)
    latencies = np.full(10, 0.01)
    assert faults.recovery(schedule, latencies, 4.0) == 0.0
    latencies[[1, 5, 7]] = np.inf
    assert faults.recovery(schedule, latencies, 4.0) == 3.0
    latencies[9] = np.inf
    assert faults.recovery(schedule, latencies, 4.0) is None


def test_one_lucky_answer_at_the_end_is_no_recovery():
    """Down from 2 s on, and only the very last request of 10 s is answered: the last second counts.

    Down until 8.9 s is a recovery after 6.9 s, the largest that a run of 10 s can show here.
    """
    schedule = np.arange(0, 10.01, 0.02)
    latencies = np.where(schedule >= 2, np.inf, 0.01)
    latencies[-1] = 0.01
    assert faults.recovery(schedule, latencies, 2.0) is None
    latencies[schedule > 8.91] = 0.01
    assert faults.recovery(schedule, latencies, 2.0) == pytest.approx(6.9)


def test_a_report_says_what_it_could_have_seen():
    """8 s after the fault, the last of which must be clean: an outage above 7 s is not seen."""
    report = faults.FaultReport("none", 10, {}, 0, None, 0, watched_s=8.0)
    assert report.largest_recovery_s == 7.0


def test_a_server_that_ends_is_started_again_up_to_a_limit():
    """A server that ends again and again has a fault which restarts only hide."""
    with faults.keep_running(sleeper, most=2, pause_s=0.01) as kept:
        first = kept.headers
        for restarts in (1, 2):
            faults.kill_server(kept.server)
            assert kept.wait_restarted(restarts, 20), kept.error
        assert kept.headers != first
        last = kept.server.child
        faults.kill_server(kept.server)
        assert not kept.wait_restarted(3, 20)
        assert isinstance(kept.error, InputError)
    assert last.poll() is not None


def test_nothing_is_left_after_the_block():
    with faults.keep_running(sleeper) as kept:
        pids = [each.pid for each in psutil.Process(kept.server.child.pid).children()]
        assert pids
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    with pytest.raises(InputError, match="nothing to kill"):
        faults.kill_server(kept.server)


def test_unclear_texts_are_no_evidence(tiny_bundle):
    predictor = Predictor(tiny_bundle)
    found = faults.expected_labels(predictor, TEXTS, least_probability=0.9)
    assert 0 < len(found) < len(TEXTS)
    assert all(predictor.predict([text])[0].probability >= 0.9 for text in found)


@pytest.mark.slow
def test_a_torchserve_survives_its_worker_and_its_jvm(tiny_bundle, tmp_path):
    """Two workers: one dies unnoticed, or nearly. The JVM dies: errors until it is back.

    The restarted server has another token; whoever keeps the old one is refused for ever.
    """
    archive = archive_bundle(tiny_bundle, tmp_path / "store")
    spec = ModelSpec("intents", archive, "1.0", workers=2, batch_size=8, max_batch_delay_ms=1)
    port = free_port()

    def start():
        return torchserve(tmp_path / "store", [spec], folder=tmp_path, inference_port=port)

    expected = faults.expected_labels(Predictor(tiny_bundle), TEXTS)
    with faults.keep_running(start) as kept:
        token = kept.server.token

        def load(name, fault, seconds=1.5):
            return faults.load_through_fault(
                kept.server.prediction_url("intents"),
                lambda: kept.headers,
                expected,
                fault,
                name=name,
                rate=50,
                seconds=seconds,
                at_s=0.3,
                restarts=lambda: kept.restarts,
            )

        worker = load("worker", lambda: faults.kill_worker(kept.server, "intents"), 2.5)
        assert worker.wrong == 0
        assert worker.failed <= 0.5 * worker.requests, worker
        assert worker.recovered_s is not None, worker
        assert 1.9 < worker.watched_s <= 2.2, worker
        jvm = load("JVM", lambda: faults.kill_server(kept.server))
        assert jvm.wrong == 0
        assert jvm.failed > 0
        assert kept.wait_restarted(1, 60), kept.error
        assert kept.server.token != token
        label = kept.server.predict("intents", {"text": next(iter(expected))})["label"]
        assert label == next(iter(expected.values()))


def test_a_fault_outside_the_run_is_refused():
    with pytest.raises(InputError, match="at_s = 3"):
        faults.load_through_fault(
            "http://127.0.0.1:1", dict, {"a": "b"}, lambda: None, name="none", seconds=2, at_s=3
        )
