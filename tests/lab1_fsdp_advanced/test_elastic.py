"""A lost rank costs a restart and a few steps, not the run; and the job files of two schedulers."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.errors import InputError
from labs.lab1_fsdp_advanced import elastic
from labs.lab1_fsdp_advanced.checkpoint_files import complete, latest, remove
from labs.lab1_fsdp_advanced.elastic import Plan, Recovery, Step, killed_at, losses, recovery, run

JOBS = Path(elastic.__file__).with_name("jobs")
STEPS, EVERY, KILLED = 8, 3, 5


@dataclass
class Runs:
    """Steps of an undisturbed run, of one with a kill, and of the rest with one rank."""

    whole: list[Step]
    done: list[Step]
    fewer: list[Step]
    killed_at: float
    checkpoints: list[str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("elastic")
    plan = Plan(STEPS, EVERY)
    whole = run(plan, folder / "whole", procs=2)
    killed = folder / "killed"
    faulty = Plan(STEPS, EVERY, kill_rank=1, kill_after=KILLED)
    done = run(faulty, killed, procs=2, max_restarts=1)
    newest = latest(killed / "checkpoints")
    assert newest is not None
    assert newest.name == f"step-{STEPS:08}"
    remove(newest)
    (killed / "stop").touch()
    fewer = run(plan, killed, procs=1)
    names = [path.name for path in complete(killed / "checkpoints")]
    return Runs(whole, done, fewer, killed_at(killed), names)


@pytest.mark.slow
def test_a_killed_run_ends_as_the_undisturbed_one(runs: Runs) -> None:
    """Weights, moments, step and batches all come back; any of them lost would show here."""
    assert [step.number for step in runs.whole] == list(range(1, STEPS + 1))
    assert runs.whole[-1].loss < runs.whole[0].loss - 0.1
    assert losses(runs.done) == pytest.approx(losses(runs.whole), abs=1e-6)


@pytest.mark.slow
def test_no_more_steps_are_done_again_than_lie_between_checkpoints(runs: Runs) -> None:
    cost = recovery(runs.done, runs.killed_at)
    assert cost.resumed_from == KILLED // EVERY * EVERY
    assert cost.steps_again == KILLED - cost.resumed_from <= EVERY
    assert 0 < cost.seconds < 60


@pytest.mark.slow
def test_steps_done_twice_have_the_same_loss(runs: Runs) -> None:
    for number in (4, 5):
        first, second = (step.loss for step in runs.done if step.number == number)
        assert second == pytest.approx(first, abs=1e-6)


@pytest.mark.slow
def test_fewer_ranks_go_on_from_the_same_checkpoint(runs: Runs) -> None:
    """A node that does not come back should not end the run: 2 ranks saved, 1 goes on."""
    assert runs.fewer[0].number == 7
    assert runs.fewer[0].loss == pytest.approx(losses(runs.whole)[7], abs=1e-6)


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_first(runs: Runs) -> None:
    """Step 7 is not one that is saved by itself: it was, because the job was told to end."""
    assert [step.number for step in runs.fewer] == [7]
    assert runs.checkpoints[-1] == "step-00000007"


@pytest.mark.slow
@pytest.mark.multigpu
def test_gpus_lose_a_rank_and_go_on_and_one_of_them_takes_over(tmp_path: Path) -> None:
    """NCCL waits for a dead rank for ever: torchrun must end the other, and both start again."""
    plan = Plan(STEPS, EVERY, device="cuda")
    whole = losses(run(plan, tmp_path / "whole", procs=2))
    killed = tmp_path / "killed"
    faulty = Plan(STEPS, EVERY, kill_rank=1, kill_after=KILLED, device="cuda")
    done = run(faulty, killed, procs=2, max_restarts=1)
    cost = recovery(done, killed_at(killed))
    print(cost)
    assert losses(done) == pytest.approx(whole, abs=1e-5)
    assert cost.steps_again == KILLED - cost.resumed_from <= EVERY
    newest = latest(killed / "checkpoints")
    assert newest is not None
    remove(newest)
    fewer = run(plan, killed, procs=1)
    assert fewer[0].number == 7
    assert losses(fewer) == pytest.approx({n: whole[n] for n in (7, 8)}, abs=1e-5)


def test_the_cost_is_counted_from_the_steps_of_both_attempts() -> None:
    done = [Step(n, 1.0, at=float(n)) for n in range(1, 6)]
    done += [Step(n, 1.0, at=10.0 + n) for n in range(4, 9)]
    assert recovery(done, killed_at=5.5) == Recovery(3, 2, 8.5)
    assert losses([Step(1, 2.0, 0.0), Step(1, 3.0, 1.0)]) == {1: 3.0}
    with pytest.raises(InputError, match="no step was done after the kill"):
        recovery(done[:5], killed_at=5.5)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(save_every=0), "save_every = 0 must be > 0"),
        (Plan(kill_rank=2, kill_after=1), "kill_rank = 2 must be one of the 2 ranks"),
        (Plan(kill_rank=0, kill_after=8), "kill_after = 8 must be between 0 and 8"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan: Plan, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(plan, tmp_path / "none", procs=2)
    assert not (tmp_path / "none").exists()


# --- job files: checked, not run ----------------------------------------------------------------


def starts_a_module(text: str) -> None:
    modules = re.findall(r"labs\.lab1_fsdp_advanced\.\w+", text)
    assert modules
    for module in modules:
        assert importlib.util.find_spec(module), f"{module} does not exist"


def test_the_slurm_script_is_one() -> None:
    """sbatch reads the directives only above the first command."""
    path = JOBS / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = {line[8:].split("=")[0] for line in lines[:first] if line.startswith("#SBATCH ")}
    wanted = {"nodes", "ntasks-per-node", "gpus-per-node", "time", "requeue", "signal", "output"}
    assert {f"--{name}" for name in wanted} <= directives
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
    assert "--signal=B:USR1@" in text, "without B: the batch script is not told"
    starts_a_module(text)


@pytest.mark.parametrize(
    ("ranks", "signalled", "status", "requeued"),
    [
        pytest.param("while [ ! -e $RUN/stop ]; do sleep 0.05; done", True, 0, True, id="time up"),
        pytest.param("while [ ! -e $RUN/stop ]; do sleep 0.05; done; exit 1", True, 1, False),
        pytest.param("exit 3", False, 3, False, id="failed"),
        pytest.param("exit 0", False, 0, False, id="done"),
    ],
)
def test_the_slurm_script_saves_and_requeues_only_when_time_is_up(
    tmp_path: Path, ranks: str, signalled: bool, status: int, requeued: bool
) -> None:
    """A job that has failed or is done must not come back; one that was cut short must."""
    stand_ins = {
        "srun": f"touch $RUN/started; {ranks}",
        "scontrol": 'if [ "$1" = show ]; then echo host-1; else echo "$@" > "$RUN/requeued"; fi',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    folder = tmp_path / "run"
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RUN": str(folder)}
    env |= {"SLURM_JOB_NODELIST": "host-[1-2]", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}
    script = subprocess.Popen(["bash", str(JOBS / "slurm.sbatch")], env=env)
    try:
        deadline = time.monotonic() + 10
        while not (folder / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        if signalled:
            script.send_signal(signal.SIGUSR1)
        assert script.wait(10) == status
    finally:
        script.kill()
        script.wait()
    assert (folder / "requeued").exists() == requeued
    if requeued:
        assert (folder / "requeued").read_text() == "requeue 7\n"
        assert not (folder / "stop").exists(), "the next start would stop at once"


def pytorchjob() -> dict[str, Any]:
    documents = yaml.safe_load_all((JOBS / "pytorchjob.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


def test_the_pytorchjob_has_what_the_operator_and_a_cluster_ask_for() -> None:
    documents = pytorchjob()
    job = documents["PyTorchJob"]
    assert job["apiVersion"] == "kubeflow.org/v1"
    policy = job["spec"]["elasticPolicy"]
    replicas = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert policy["minReplicas"] <= replicas["replicas"] <= policy["maxReplicas"]
    assert policy["rdzvBackend"] == "c10d"
    pod = replicas["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["name"] == "pytorch", "the operator looks for this name"
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert str(gpus) == str(policy["nProcPerNode"])
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == set(volumes)
    assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"
    assert mounts["shared-memory"] == "/dev/shm"
    claim = volumes["checkpoints"]["persistentVolumeClaim"]["claimName"]
    assert documents["PersistentVolumeClaim"]["metadata"]["name"] == claim
    access = documents["PersistentVolumeClaim"]["spec"]["accessModes"]
    assert access == ["ReadWriteMany"], "every rank writes its own part of a checkpoint"
    assert any(mounts["checkpoints"] in word for word in container["command"])
    starts_a_module(" ".join(container["command"]))


@pytest.mark.parametrize("name", ["slurm.sbatch", "pytorchjob.yaml"])
def test_a_job_file_says_that_it_was_not_run(name: str) -> None:
    words = (JOBS / name).read_text(encoding="utf-8").replace("#", " ").split()
    assert "it has not been run on a cluster." in " ".join(words)


@pytest.mark.parametrize("name", ["slurm.sbatch", "pytorchjob.yaml"])
def test_a_restart_gets_a_new_store(name: str) -> None:
    """Otherwise the ranks look for dead ones at the addresses of the first attempt."""
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" in (JOBS / name).read_text(encoding="utf-8")
