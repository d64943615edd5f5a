"""The whole system, end to end at smoke scale, and the faults it must survive.

One smoke run makes the artefacts; the faults are met on them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from capstone import bundle
from capstone.config import STAGES
from capstone.serving import Service, live
from common.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
CAPSTONE = [sys.executable, "-m", "capstone"]
REQUIRED = {
    "retrieval.ndcg_at_10", "baseline.ease.ndcg_at_10", "ranker.auc", "serving.p99_ms",
    "serving.qps", "student.ndcg_retention", "fairness.ndcg_gap.gender", "experiment.srm_p",
}  # fmt: skip


def capstone(
    *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CAPSTONE, "--scale", "smoke", *arguments],
        cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def leftovers(marker: str) -> list[str]:
    """Command lines of processes that mention ``marker`` (the run's folder)."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if marker in line and process.pid != os.getpid() and "pytest" not in line:
            found.append(line[:200])
    return found


def tree(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smoke run; its folder."""
    folder = tmp_path_factory.mktemp("runs")
    done = capstone("--out", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def results(out: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((out / "capstone" / "latest" / "results.json").read_text())


def bundles_of(out: Path) -> Path:
    return out / "capstone" / "artifacts" / "smoke-seed0" / "bundle"


@pytest.fixture(scope="module")
def service(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = bundles_of(out)
    both = [bundle.load(made / name) for name in ("reference", "champion")]
    folder = tmp_path_factory.mktemp("service")
    with live(
        both, made / "store", made / "users.json", folder=folder, weights=(0.5, 0.5)
    ) as running:
        yield running


def test_the_run_measures_what_it_must(results: dict) -> None:  # type: ignore[type-arg]
    assert set(results["metrics"]) >= REQUIRED
    for name in ("fairness.ndcg_gap.gender", "student.ndcg_retention", "ranker.auc"):
        low, high = results["metrics"][name]["ci95"]
        assert low < results["metrics"][name]["value"] < high, name
    for name in STAGES:
        assert results["metrics"][f"time.{name}_s"]["value"] >= 0
    assert results["metrics"]["baseline.ease.ndcg_at_10"]["value"] == pytest.approx(
        0.0735, abs=0.0005
    )
    assert results["metrics"]["serving.offline_agreement"]["value"] >= 0.95
    assert results["metrics"]["index.recall_at_10"]["value"] == 1.0


def test_learning_beats_popularity_even_in_a_few_epochs(results: dict) -> None:  # type: ignore[type-arg]
    metrics = results["metrics"]
    popular = metrics["baseline.popularity.ndcg_at_10"]["value"]
    assert metrics["retrieval.ndcg_at_10"]["value"] > popular
    assert metrics["ranker.ndcg_at_10"]["value"] > popular
    assert metrics["ranker.auc"]["value"] > 0.65


def test_no_outcome_without_a_measurement(results: dict) -> None:  # type: ignore[type-arg]
    for row in results["deliverables"]:
        if row["passed"] is None:
            assert row["reason"], row["id"]
        else:
            assert row["measured"] is not None, row["id"]


def test_the_run_ends_with_a_scorecard_a_report_and_a_model_card(out: Path) -> None:
    latest = out / "capstone" / "latest"
    assert "Scorecard" in (out / "stdout.txt").read_text()
    page = (latest / "report.html").read_text()
    assert "C.latency" in page
    assert "data:image/png;base64" in page
    assert "simulated" in page
    card = (latest / "model_card.md").read_text()
    measured = json.loads((latest / "results.json").read_text())["metrics"]["ranker.auc"]["value"]
    assert f"{measured:.4g}" in card
    assert "not measured" not in card


def test_nothing_is_left_running(out: Path) -> None:
    assert leftovers(str(out)) == []


def test_a_feed_has_ten_new_films_in_order_of_value(service: Service, out: Path) -> None:
    users = json.loads((bundles_of(out) / "users.json").read_text())
    answer = service.feed(7)
    values = [item["value"] for item in answer["items"]]
    assert len(values) == 10
    assert values == sorted(values, reverse=True)
    assert not {item["item_id"] for item in answer["items"]} & set(users["7"][0])
    assert set(answer["timings_ms"]) == {"hydrate", "retrieve", "filter", "score", "select", "log"}


def test_exposures_are_logged_with_unit_variant_and_version(service: Service) -> None:
    service.feed(3, unit_id="someone")
    rows = [json.loads(line) for line in service.exposures.read_text().splitlines()]
    mine = [row for row in rows if row["unit_id"] == "someone"]
    assert mine[-1]["user_id"] == 3
    assert mine[-1]["variant"] in (0, 1)
    assert len(mine[-1]["items"]) == 10


def test_a_unit_always_gets_the_same_variant(service: Service) -> None:
    variants = [service.feed(1, unit_id=f"u{i}")["variant"] for i in range(12)]
    assert variants == [service.feed(2, unit_id=f"u{i}")["variant"] for i in range(12)]
    assert set(variants) == {0, 1}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"user_id": 5000}, 404),
        ({"user_id": 0}, 422),
        ({"user_id": 1, "k": 0}, 422),
        ({"user_id": 1, "k": 1000}, 422),
        ({"user_id": "x"}, 422),
        ({}, 422),
        ({"user_id": 1, "variant": 9}, 422),
    ],
)
def test_a_bad_request_gets_a_clear_4xx(service: Service, body: dict, status: int) -> None:  # type: ignore[type-arg]
    answer = httpx.post(f"{service.url}/feed", json=body, headers=service.headers)
    assert answer.status_code == status
    assert answer.json()["detail"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_no_feed_without_the_token(service: Service, headers: dict[str, str]) -> None:
    answer = httpx.post(f"{service.url}/feed", json={"user_id": 1}, headers=headers)
    assert answer.status_code == 401


def test_the_metrics_hold_a_latency_histogram_for_every_stage(service: Service) -> None:
    service.feed(1)
    text = httpx.get(f"{service.url}/metrics").text
    for stage in ("retrieve", "score", "select"):
        assert f'feed_stage_seconds_bucket{{le="0.05",stage="{stage}"}}' in text


def test_a_killed_model_worker_comes_back(service: Service) -> None:
    service.feed(1)
    for pid in service.torchserve.worker_pids():
        os.kill(pid, signal.SIGKILL)
    statuses = []
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        answer = httpx.post(
            f"{service.url}/feed", json={"user_id": 1}, headers=service.headers, timeout=30
        )
        statuses.append(answer.status_code)
        if answer.status_code == 200 and len(statuses) > 3:
            break
        time.sleep(0.5)
    assert statuses[-1] == 200, statuses
    assert set(statuses) <= {200, 503}, "while the worker is away the answer is 503, never a hang"


def test_a_port_in_use_is_named(out: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = capstone("--out", str(out), "--stages", "load", "--port", str(port))
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr
    assert leftovers(str(out)) == []


def test_a_missing_model_archive_is_named(out: Path, tmp_path: Path) -> None:
    made = bundles_of(out)
    champion = bundle.load(made / "champion")
    with (
        pytest.raises(InputError, match=rf"ranker-{champion.version}\.mar"),
        live([champion], tmp_path, made / "users.json", folder=tmp_path),
    ):
        raise AssertionError("the service must not start")


def test_an_index_of_another_checkpoint_is_refused(out: Path, tmp_path: Path) -> None:
    """Queries of one model against vectors of another return confident nonsense."""
    from common.errors import RunError

    made = bundles_of(out)
    champion = bundle.load(made / "champion")
    other = bundle.assemble(
        tmp_path / "other",
        encoder=champion.encoder,
        ranker=champion.ranker,
        index=champion.index,
        catalogue=champion.catalogue,
        checkpoint="0" * 64,
        max_length=champion.max_length,
        candidates=champion.candidates,
        weights=champion.weights,
    )
    from capstone.serving import archive_rankers

    archive_rankers([other], tmp_path / "store")
    with (
        pytest.raises(RunError, match="version"),
        live([other], tmp_path / "store", made / "users.json", folder=tmp_path / "logs"),
    ):
        raise AssertionError("the service must not start")


def test_model_server_workers_load_the_learners_file(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, proof = tmp_path / "work" / "lab4_model_serving", tmp_path / "proof"
    work.mkdir(parents=True)
    proof.mkdir()
    source = (ROOT / "labs" / "lab4_model_serving" / "export.py").read_text()
    tell = "\nimport os, pathlib\npathlib.Path(os.environ['PROOF'], str(os.getpid())).touch()\n"
    (work / "export.py").write_text(source + tell)
    monkeypatch.setenv("LABS_WORK", str(work.parent))
    monkeypatch.setenv("PROOF", str(proof))
    made = bundles_of(out)
    champion = bundle.load(made / "champion")
    with live([champion], made / "store", made / "users.json", folder=tmp_path / "logs") as running:
        workers = running.torchserve.worker_pids()
        assert len(running.feed(1)["items"]) == 10
    loaded_in = {int(path.name) for path in proof.iterdir()}
    assert set(workers) <= loaded_in, "every TorchServe worker must load the learner's file"


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_in_any_stage_leaves_nothing_behind(out: Path, stage: str) -> None:
    before = (out / "capstone" / "latest").resolve()
    artefacts = sorted(path.name for path in (out / "capstone/artifacts/smoke-seed0").iterdir())
    process = subprocess.Popen(
        [*CAPSTONE, "--scale", "smoke", "--out", str(out), "--stages", stage],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"[{stage}]"):
            break
    if stage in ("train", "distill", "load", "experiment"):
        time.sleep(3)  # let the ranks or the servers come up
    started = tree(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(started, timeout=5)
    assert [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert (out / "capstone" / "latest").resolve() == before
    assert not list((out / "capstone").glob(".*.partial"))
    left = sorted(path.name for path in (out / "capstone/artifacts/smoke-seed0").iterdir())
    assert left == artefacts


def test_the_next_run_works_after_the_interruptions(out: Path) -> None:
    done = capstone("--out", str(out), "--stages", "data,index,bundle,fairness,card")
    assert done.returncode == 0, done.stderr
    latest = json.loads((out / "capstone" / "latest" / "results.json").read_text())
    rows = {row["id"]: row for row in latest["deliverables"]}
    assert rows["C.latency"]["passed"] is None
    assert rows["C.retrieval"]["passed"] is None
    assert "'load' was not chosen" in rows["C.latency"]["reason"]


def test_a_stage_run_again_makes_the_later_ones_stale(out: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(out / "capstone" / "artifacts", tmp_path / "capstone" / "artifacts")
    done = capstone("--out", str(tmp_path), "--stages", "export")
    assert done.returncode == 0, done.stderr
    stale = capstone("--out", str(tmp_path), "--stages", "fairness")
    assert stale.returncode == 2
    assert "made from an earlier 'export'" in stale.stderr


def test_a_stage_without_its_input_says_what_to_run(tmp_path: Path) -> None:
    done = capstone("--out", str(tmp_path), "--stages", "distill")
    assert done.returncode == 2
    assert "--stages train" in done.stderr
    assert not (tmp_path / "capstone" / "latest").exists()


def test_no_network_and_no_cache_is_one_clear_error(tmp_path: Path) -> None:
    blocked = {
        "LABS_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "LABS_DATA_DIR": "",
        "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9",
    }  # fmt: skip
    done = capstone("--out", str(tmp_path / "runs"), "--stages", "data", env=blocked)
    assert done.returncode == 1
    assert "LABS_DATA_DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "capstone" / "latest").exists()
