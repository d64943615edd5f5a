"""Plans for machines: what a container really gives, CPU or GPU, workers and threads."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving.bundle import Bundle
from labs.lab4_model_serving.deployment import (
    Machine,
    cgroup_cpus,
    cgroup_memory,
    plan,
    this_machine,
)

GIB = 2**30


def test_a_cpu_machine_gets_a_worker_a_core_with_one_thread() -> None:
    """Two cores: two workers, and no library that starts two threads in each."""
    found = plan(Machine(2, 8 * GIB))
    assert (found.device, found.workers, found.threads) == ("cpu", 2, 1)
    assert found.env["OMP_NUM_THREADS"] == "1"
    assert found.worker_env(1)["CUDA_VISIBLE_DEVICES"] == ""


def test_a_gpu_machine_gets_a_worker_a_gpu_and_large_batches() -> None:
    """Each worker sees its own GPU; ``cpu`` may still be asked for."""
    machine = Machine(16, 64 * GIB, gpus=2)
    found = plan(machine)
    assert (found.device, found.workers, found.threads) == ("cuda", 2, 8)
    assert [found.worker_env(i)["CUDA_VISIBLE_DEVICES"] for i in range(2)] == ["0", "1"]
    assert found.batch_size > plan(machine, device="cpu").batch_size
    with pytest.raises(InputError, match="worker"):
        found.worker_env(2)


def test_workers_of_a_small_model_share_each_gpu() -> None:
    """A GPU that waits for Python takes several workers, and they are spread evenly."""
    found = plan(Machine(16, 64 * GIB, gpus=2), workers_per_gpu=4)
    assert (found.workers, found.gpus, found.threads) == (8, 2, 2)
    seen = [found.worker_env(i)["CUDA_VISIBLE_DEVICES"] for i in range(8)]
    assert [seen.count(gpu) for gpu in ("0", "1")] == [4, 4]
    assert plan(Machine(16, GIB, gpus=1), workers_per_gpu=4).workers == 2, "memory for two"
    assert plan(Machine(16, 64 * GIB), workers_per_gpu=4).gpus == 0


def test_cuda_without_a_gpu_is_a_clear_error() -> None:
    """ONNX Runtime would warn, and serve on the CPU at a tenth of the speed."""
    with pytest.raises(InputError, match="no GPU can be used here"):
        plan(Machine(4, 8 * GIB), device="cuda")


def test_memory_limits_the_workers_before_the_kernel_does() -> None:
    """16 cores and 1 GiB: two workers of 400 MiB; the rest of the cores become threads."""
    found = plan(Machine(16, GIB))
    assert (found.workers, found.threads) == (2, 8)
    with pytest.raises(InputError, match="a worker needs 400 MiB"):
        plan(Machine(2, 300 * 2**20))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.floats(0.1, 128), st.integers(1, 512), st.integers(0, 8), st.floats(0, 4))
def test_a_plan_never_asks_for_more_than_the_machine_has(
    cpus: float, gib: int, gpus: int, reserved: float
) -> None:
    """Half a core still gets one worker; beyond that, no core and no byte is used twice."""
    machine = Machine(cpus, gib * GIB, gpus)
    found = plan(machine, reserved_cpus=reserved)
    assert found.workers >= 1
    assert found.workers * 400 * 2**20 <= machine.memory_bytes
    assert found.device == ("cuda" if gpus else "cpu")
    if found.device == "cpu":
        assert found.workers * found.threads <= max(1, cpus - reserved)


def test_a_container_is_asked_for_its_quota(tmp_path: Path) -> None:
    """It sees all cores of the host and may use half of one: cpu.max says so, os.cpu_count not."""
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    assert cgroup_cpus(tmp_path) == 0.5
    found = this_machine(tmp_path)
    assert found.cpus == 0.5
    assert found.memory_bytes <= GIB
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert cgroup_cpus(tmp_path) == cgroup_memory(tmp_path) == math.inf
    assert cgroup_cpus(tmp_path / "none") == cgroup_memory(tmp_path / "none") == math.inf


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"device": "tpu"}, "device"),
        ({"worker_memory_bytes": 0}, "worker_memory_bytes"),
        ({"reserved_cpus": -1.0}, "reserved_cpus"),
        ({"latency_budget_ms": 0.0}, "latency_budget_ms"),
        ({"workers_per_gpu": 0}, "workers_per_gpu"),
    ],
)
def test_impossible_wishes_are_refused(options: dict[str, object], named: str) -> None:
    """With the option's name."""
    with pytest.raises(InputError, match=named):
        plan(Machine(2, 8 * GIB), **options)


@pytest.mark.gpu
def test_the_same_bundle_answers_alike_on_the_gpu(tiny_bundle: Bundle) -> None:
    """One bundle, the device by configuration: equal labels, probabilities to 1e-4."""
    from labs.lab4_model_serving.predictor import Predictor

    found = plan(this_machine(), device="cuda")
    texts = ["what is on my calendar", "set an alarm", "how much money have i", "word"] * 8
    gpu = Predictor(tiny_bundle, device=found.device, threads=found.threads).predict(texts)
    cpu = Predictor(tiny_bundle).predict(texts)
    assert [answer.label for answer in gpu] == [answer.label for answer in cpu]
    for a, b in zip(gpu, cpu, strict=True):
        assert a.probability == pytest.approx(b.probability, abs=1e-4)
