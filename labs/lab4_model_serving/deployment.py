"""One bundle, any machine: choose device, workers, threads and batch for what is there.

The program and the bundle are the same on a laptop, a two-core container and a machine with GPUs.
What differs is a plan, made from what the machine *really* gives: a container sees the host's 64
cores and may use two.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import InputError, require

Device = Literal["auto", "cpu", "cuda"]
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """What a process may use."""

    cpus: float
    """Cores, after affinity and the container's quota."""
    memory_bytes: int
    gpus: int = 0

    def __post_init__(self) -> None:
        require(self.cpus > 0, "cpus", self.cpus, "must be > 0")
        require(self.memory_bytes > 0, "memory_bytes", self.memory_bytes, "must be > 0")
        require(self.gpus >= 0, "gpus", self.gpus, "must be >= 0")


@dataclass(frozen=True)
class Plan:
    """How a bundle is served on a machine."""

    device: Literal["cpu", "cuda"]
    workers: int
    """Processes; as planned, on GPUs a multiple of ``gpus``."""
    threads: int
    """Intra-op threads of each."""
    batch_size: int
    max_batch_delay_ms: int
    reason: str
    gpus: int = 0
    """That the workers are spread over."""

    @property
    def env(self) -> dict[str, str]:
        """Environment of each worker: without it every library starts a thread a core."""
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        # The tokenizer's own threads would fight with the workers.
        return {**dict.fromkeys(names, str(self.threads)), "TOKENIZERS_PARALLELISM": "false"}

    def worker_env(self, worker: int) -> dict[str, str]:
        """``env``, and for GPUs the one that this worker sees."""
        require(0 <= worker < self.workers, "worker", worker, f"must be in [0, {self.workers})")
        visible = str(worker % self.gpus) if self.device == "cuda" else ""
        return {**self.env, "CUDA_VISIBLE_DEVICES": visible}


def this_machine(cgroup: Path = CGROUP) -> Machine:
    """The machine that this process runs on, seen through its container's limits.

    CUDA devices count only when this ONNX Runtime can use them.
    """
    import psutil

    memory = min(psutil.virtual_memory().total, cgroup_memory(cgroup))
    cpus = min(float(len(os.sched_getaffinity(0))), cgroup_cpus(cgroup))
    return Machine(cpus, int(memory), _gpus())


def cgroup_cpus(cgroup: Path = CGROUP) -> float:
    """CPU quota of the container in cores; infinite without one (cgroup v2 ``cpu.max``)."""
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()
    except OSError:
        return math.inf  # no cgroup v2, or not limited here
    return math.inf if quota == "max" else int(quota) / int(period)


def cgroup_memory(cgroup: Path = CGROUP) -> float:
    """Memory limit of the container in bytes; infinite without one."""
    try:
        limit = (cgroup / "memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return math.inf
    return math.inf if limit == "max" else float(limit)


def _gpus() -> int:
    import onnxruntime as ort

    from common import hardware

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return 0
    return len(hardware.detect().gpus)


def plan(
    machine: Machine,
    *,
    device: Device = "auto",
    worker_memory_bytes: int = 400 * 2**20,
    reserved_cpus: float = 0.0,
    latency_budget_ms: float = 50.0,
    workers_per_gpu: int = 1,
) -> Plan:
    """Choose how to serve on ``machine``.

    On CPUs: one worker a core with one thread each, as many as memory holds. Several workers with
    one thread serve more requests per second than one worker with several, because small
    matrices are not worth a barrier between threads; a single request takes longer. On GPUs:
    large batches, since a GPU takes nearly as long for one row as for many, and one worker a GPU
    unless the model is so small that the GPU waits for the worker.

    Parameters
    ----------
    device
        ``auto`` takes GPUs where there are some. ``cuda`` insists.
    worker_memory_bytes
        Resident memory of one worker with the model, measured.
    reserved_cpus
        Cores for others: a front end, a load generator.
    latency_budget_ms
        The p99 to keep; a tenth of it may go into waiting for a batch.
    workers_per_gpu
        Workers that share each GPU: 1 for a model that keeps it busy.

    Raises
    ------
    InputError
        ``cuda`` where there is none, an unknown device, or memory for no worker.
    """
    require(device in ("auto", "cpu", "cuda"), "device", device, "must be auto, cpu or cuda")
    require(worker_memory_bytes > 0, "worker_memory_bytes", worker_memory_bytes, "must be > 0")
    require(reserved_cpus >= 0, "reserved_cpus", reserved_cpus, "must be >= 0")
    require(latency_budget_ms > 0, "latency_budget_ms", latency_budget_ms, "must be > 0")
    require(workers_per_gpu >= 1, "workers_per_gpu", workers_per_gpu, "must be >= 1")
    if device == "cuda" and machine.gpus == 0:
        raise InputError(
            "device = 'cuda', but no GPU can be used here (none, hidden by CUDA_VISIBLE_DEVICES, "
            "or onnxruntime instead of onnxruntime-gpu); use device = 'auto' or 'cpu'"
        )
    fit = machine.memory_bytes * 8 // 10 // worker_memory_bytes
    if fit < 1:
        raise InputError(
            f"a worker needs {worker_memory_bytes / 2**20:.0f} MiB and this machine gives "
            f"{machine.memory_bytes / 2**20:.0f} MiB, of which a fifth is kept free; "
            "take a larger machine or a smaller model (INT8)"
        )
    delay = max(1, min(10, int(latency_budget_ms / 10)))
    cpus = max(1, int(machine.cpus - reserved_cpus))
    if machine.gpus and device != "cpu":
        each = min(workers_per_gpu, max(1, fit // machine.gpus))
        gpus = min(machine.gpus, fit)
        return Plan(
            "cuda",
            gpus * each,
            threads=max(1, cpus // (gpus * each)),
            batch_size=64,
            max_batch_delay_ms=delay,
            reason=f"{gpus} GPU(s), {each} worker(s) each, large batches",
            gpus=gpus,
        )
    workers = min(cpus, fit)
    why = f"memory for {fit} workers" if fit < cpus else f"{machine.cpus:g} cores"
    return Plan(
        "cpu",
        workers,
        threads=max(1, cpus // workers),
        batch_size=16,
        max_batch_delay_ms=delay,
        reason=f"{why}: {workers} workers of {max(1, cpus // workers)} threads",
    )
