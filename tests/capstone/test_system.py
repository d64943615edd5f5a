"""The whole system, end to end at smoke scale, and the faults it must survive.

One smoke run makes the artefacts; the faults are met on them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from capstone import bundle, rubric, training
from capstone.claims import CLAIMS, STAGE_OF
from capstone.config import STAGES
from capstone.event_tables import EXPOSURES, REACTIONS, FeedTables
from capstone.serving import Service, archive_rankers, live
from common.errors import InputError, RunError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
CAPSTONE = [sys.executable, "-m", "capstone"]
KILLED_IN = "train"


def capstone(
    *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CAPSTONE, "--scale", "smoke", *arguments],
        cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True, timeout=800,
    )  # fmt: skip


def leftovers(marker: str) -> list[str]:
    """Command lines of processes that mention ``marker`` (the run's folder)."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if marker in line and process.pid != os.getpid() and "pytest" not in line:
            found.append(line[:200])
    return found


def started(*arguments: str, until: str) -> subprocess.Popen[str]:
    """A smoke run in a process group of its own, in stage ``until``."""
    process = subprocess.Popen(
        [*CAPSTONE, "--scale", "smoke", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"[{until}]"):
            break
    return process


def wait_for(met: Callable[[], object], otherwise: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def tree(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smoke run; its folder. Its first process was killed (-9) while it trained."""
    folder = tmp_path_factory.mktemp("runs")
    killed = started("--out", str(folder), until=KILLED_IN)
    wait_for(lambda: list(folder.rglob(f"checkpoints/{KILLED_IN}/*/step*[0-9]")), "no checkpoint")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    wait_for(lambda: leftovers(str(folder)) == [], "ranks outlive the run that started them")
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


def test_a_killed_run_goes_on_after_its_last_finished_stage(
    out: Path,
    results: dict,  # type: ignore[type-arg]
) -> None:
    """``kill -9`` costs the stage it hit, and nothing of what was measured before it."""
    lines = (out / "stdout.txt").read_text().splitlines()
    replayed = [line for line in lines if "finished by an earlier process" in line]
    names = [line[1:].partition("]")[0] for line in replayed]
    assert names == list(STAGES[: STAGES.index(KILLED_IN)])
    assert "baseline.ease.ndcg_at_10" in results["metrics"], "measured by the killed process"
    assert not (out / "capstone/artifacts/smoke-seed0/unfinished").exists()


def test_a_killed_training_goes_on_from_its_checkpoint(
    out: Path,
    results: dict,  # type: ignore[type-arg]
) -> None:
    """The ranks of the second process begin where the first one's checkpoint was, not at step 0."""
    log = (out / "capstone/artifacts/smoke-seed0/logs/encoder-teacher.log").read_text()
    first = training.PROGRESS_LINE.search(log)
    assert first is not None
    assert (first[1], int(first[2]) > 1) != ("encoder", False), first[0]
    assert results["metrics"]["time.processes"]["value"] == 2
    stages = sum(results["metrics"][f"time.{name}_s"]["value"] for name in STAGES)
    assert results["duration_s"] >= stages - 1, "the killed process counts"


def test_every_stage_ran_and_every_claim_has_its_metric_or_a_reason(results: dict) -> None:  # type: ignore[type-arg]
    for name in STAGES:
        assert results["metrics"][f"time.{name}_s"]["value"] >= 0
    assert set(STAGE_OF) == {claim.id for claim in CLAIMS}
    for claim in CLAIMS:
        metric = results["metrics"].get(claim.metric)
        assert metric is not None, f"{claim.id}: no stage measured {claim.metric}"
    for row in results["deliverables"]:
        if row["passed"] is None:
            assert row["reason"], row["id"]
        else:
            assert row["measured"] is not None, row["id"]


def test_the_figures_that_a_smoke_run_can_show_are_right(results: dict) -> None:  # type: ignore[type-arg]
    """Split, index, isolation, parity, faults and page do not depend on the training's length."""
    value = {name: metric["value"] for name, metric in results["metrics"].items()}
    assert value["baseline.ease.ndcg_at_10"] == pytest.approx(0.0735, abs=0.0005)
    assert value["index.recall_at_10"] == 1.0
    assert value["impressions.isolation_max_change"] <= 1e-6
    assert value["serving.offline_agreement"] >= 0.95
    assert value["serving.stage_sum_error"] <= 0.05
    assert value["drills.lost"] == 0
    assert value["drills.corrupt_bundle_status"] == 409
    assert value["drills.rolled_back"] == 1
    assert value["live_rollout.promoted"] == 1
    assert (value["live_rollout.failed"], value["live_rollout.unversioned"]) == (0, 0)
    assert value["off_policy.live.propensity_misfit"] < 1e-6
    assert value["rollout.broken.by_guardrail"] == 1
    assert value["page.changed_feeds"] in (2, None)
    assert value["page.errors"] in (0, None)


def test_learning_beats_popularity_even_in_a_few_epochs(results: dict) -> None:  # type: ignore[type-arg]
    metrics = results["metrics"]
    popular = metrics["baseline.popularity.ndcg_at_10"]["value"]
    assert metrics["reference.ndcg_at_10"]["value"] > popular
    assert metrics["ranker.auc"]["value"] > 0.65


def test_a_barely_trained_student_fails_its_gates_and_is_not_registered(results: dict) -> None:  # type: ignore[type-arg]
    """A few epochs do not keep 98 % of the teacher; the registry must stay empty."""
    value = {name: metric["value"] for name, metric in results["metrics"].items()}
    registered = value["gates.failed"] == 0 and value["fairness.blocked"] == 0
    assert value["registry.registered"] == int(registered)
    assert value["registry.versions"] == int(registered)


def test_the_run_ends_with_a_scorecard_a_report_and_two_documents(out: Path) -> None:
    latest = out / "capstone" / "latest"
    assert "Scorecard" in (out / "stdout.txt").read_text()
    page = (latest / "report.html").read_text()
    assert "C.feeds" in page
    assert "data:image/png;base64" in page
    assert "simulated" in page
    metrics = json.loads((latest / "results.json").read_text())["metrics"]
    card = (latest / "model_card.md").read_text()
    assert f"{metrics['retrieval.ndcg_at_10']['value']:.4g}" in card
    assert "did not run" not in card
    assert "simulated" in (latest / "experiment_report.md").read_text()


def test_the_rubric_reads_a_real_run(out: Path) -> None:
    """Its names are the run's names: a metric that was renamed would cost everybody points."""
    marks = rubric.grade(out / "capstone" / "latest", rubric.read_rubric(), {})
    evidence = {mark.criterion.id: mark.evidence for mark in marks}
    assert not [text for text in evidence.values() if "the scorecard has no" in text]
    assert next(mark.points for mark in marks if mark.criterion.name == "C.events") > 0


def test_nothing_is_left_running(out: Path) -> None:
    assert leftovers(str(out)) == []


def test_a_feed_has_ten_new_films_by_penalised_value(service: Service, out: Path) -> None:
    users = json.loads((bundles_of(out) / "users.json").read_text())
    answer = service.feed(7)
    items = answer["items"]
    assert len({item["item_id"] for item in items}) == 10
    assert not {item["item_id"] for item in items} & set(users["7"][0])
    assert answer["fallback"] is None
    assert {"hydrate", "source", "filter", "score", "select", "total"} <= set(answer["timings_ms"])


def test_exposures_are_logged_with_unit_arm_and_propensities(service: Service) -> None:
    """What an off-policy estimate needs is in the log, for every item that was shown."""
    shown = service.feed(3, unit_id="someone")
    deadline = time.monotonic() + 5
    mine: list[dict] = []  # type: ignore[type-arg]
    while not mine and time.monotonic() < deadline:
        rows = FeedTables(service.log).read(EXPOSURES).to_pylist()
        mine = [row for row in rows if row["request_id"] == shown["request_id"]]
    assert mine[0]["user_id"] == 3
    assert mine[0]["items"] == [item["item_id"] for item in shown["items"]]
    assert all(0 < p <= 1 for p in mine[0]["propensities"])


def test_figures_of_the_service_say_what_was_served_and_at_which_rate(
    results: dict,  # type: ignore[type-arg]
) -> None:
    """A mean of another rate, precision or number of workers is another service's."""
    metrics = results["metrics"]
    served = metrics["serving.workers"]
    assert served["value"] == 1
    assert "on cpu; the student in int8" in served["how"]
    for kind in ("stage_ms.score", "cpu_ms.gateway"):
        for area in ("serving.asked_", "serving."):
            how = metrics[f"{area}{kind}"]["how"]
            assert re.search(r"with \d+ feeds/s offered \((not )?held, ", how), how


def test_a_unit_always_gets_the_same_variant(service: Service) -> None:
    variants = [service.feed(1, unit_id=f"u{i}")["variant"] for i in range(12)]
    assert variants == [service.feed(2, unit_id=f"u{i}")["variant"] for i in range(12)]
    assert set(variants) == {0, 1}


def test_a_killed_model_worker_costs_fallbacks_and_comes_back(service: Service) -> None:
    """While the worker is away every feed is answered; afterwards they are ranked again."""
    service.feed(1)
    for pid in service.torchserve.worker_pids():
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 90
    fallbacks = []
    while time.monotonic() < deadline:
        fallbacks.append(service.feed(1)["fallback"])
        if len(fallbacks) > 3 and fallbacks[-1] is None:
            break
        time.sleep(0.3)
    assert fallbacks[-1] is None, fallbacks


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
    from dataclasses import replace

    made = bundles_of(out)
    champion = bundle.load(made / "champion")
    parts = {name: champion.folder / file for name, file in bundle.PARTS.items()}
    facts = replace(champion.facts, checkpoint="0" * 64)
    other = bundle.assemble(tmp_path / "other", parts, facts)
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


def make_serve(out: Path, temporary: Path) -> subprocess.Popen[str]:
    """``make serve`` as it is typed, but for the set-up, which these tests have."""
    done = [f"--assume-old=.venv/.ready-{accelerator}" for accelerator in ("cpu", "gpu")]
    return subprocess.Popen(
        ["make", "--no-print-directory", *done, "serve", "SCALE=smoke",
         f"BIN={Path(sys.executable).parent}", f"ARGS=--unregistered --port 0 --out {out}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env=os.environ | {"TMPDIR": str(temporary)},
    )  # fmt: skip


def test_make_serve_takes_a_reaction_and_ends_with_ctrl_c(out: Path, tmp_path: Path) -> None:
    """From the printed token to Ctrl-C, as a reader does it: the reaction stays, nothing runs."""
    process = make_serve(out, tmp_path)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("the page: "):
            break
    found = re.fullmatch(r"the page: (http://127\.0\.0\.1:\d+)/#token=(\S+)\n", said[-1])
    assert found, "".join(said)
    family = tree(process.pid)
    with httpx.Client(
        base_url=found[1], headers={"Authorization": f"Bearer {found[2]}"}, trust_env=False
    ) as client:
        feed = client.post("/feed", json={"user_id": 1}).json()
        liked = feed["items"][0]["item_id"]
        event = {
            "event_id": "liked", "request_id": feed["request_id"], "user_id": 1, "item_id": liked,
            "reaction": "like",
        }  # fmt: skip
        assert client.post("/events", json=event).status_code == 200
        again = client.post("/feed", json={"user_id": 1}).json()
    assert liked not in [item["item_id"] for item in again["items"]]
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert "stopped" in rest, "".join(said) + rest
    assert "Traceback" not in rest
    assert alive_of(family) == []
    assert leftovers(str(out)) == []
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {".ses"}, "temporary files, that of ONNX Runtime apart"
    kept = out / "capstone" / "service" / "smoke-seed0" / "events"
    assert FeedTables(kept).read(REACTIONS)["event_id"].to_pylist() == ["liked"]


def alive_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_kill_9_of_the_whole_group_leaves_no_server(out: Path) -> None:
    """Nobody is left to stop them: gateway, TorchServe, Redis and load end by themselves."""
    process = started("--out", str(out), "--stages", "drills", until="drills")
    events = "capstone.gateway"
    wait_for(lambda: any(events in " ".join(p.cmdline()) for p in tree(process.pid)), "no gateway")
    family = tree(process.pid)
    assert any("java" in child.name() for child in family), "TorchServe is up"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: alive_of(family) == [], "servers outlive the run", seconds=30)
    assert leftovers(str(out)) == []


@pytest.mark.parametrize("stage", ["train", "rerank", "page"])
def test_ctrl_c_in_a_stage_leaves_nothing_behind(out: Path, stage: str) -> None:
    """Ranks, servers and browsers end; the last run and the artefacts stay as they were."""
    before = (out / "capstone" / "latest").resolve()
    artefacts = {path.name for path in (out / "capstone/artifacts/smoke-seed0").iterdir()}
    process = started("--out", str(out), "--stages", stage, until=stage)
    if stage != "rerank":
        time.sleep(4)  # let the ranks or the servers come up
    family = tree(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    psutil.wait_procs(family, timeout=5)
    assert alive_of(family) == []
    assert (out / "capstone" / "latest").resolve() == before
    assert not list((out / "capstone").glob(".*.partial"))
    left = {path.name for path in (out / "capstone/artifacts/smoke-seed0").iterdir()}
    assert left | {"unfinished"} == artefacts | {"unfinished"}, "checkpoints may be gone on with"


def test_the_next_run_works_after_the_interruptions(out: Path) -> None:
    done = capstone("--out", str(out), "--stages", "data,card")
    assert done.returncode == 0, done.stderr
    latest = json.loads((out / "capstone" / "latest" / "results.json").read_text())
    rows = {row["id"]: row for row in latest["deliverables"]}
    assert rows["C.feeds"]["passed"] is None
    assert rows["C.retrieval"]["passed"] is None
    assert "'load' was not chosen" in rows["C.feeds"]["reason"]


def test_a_stage_run_again_makes_the_later_ones_stale(out: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(out / "capstone" / "artifacts", tmp_path / "capstone" / "artifacts")
    done = capstone("--out", str(tmp_path), "--stages", "index")
    assert done.returncode == 0, done.stderr
    stale = capstone("--out", str(tmp_path), "--stages", "bundle")
    assert stale.returncode == 2
    assert "made from an earlier 'index'" in stale.stderr


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
