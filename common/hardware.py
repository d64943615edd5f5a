"""What this machine is, and which device and how many ranks a run gets on it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.errors import InputError


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_gib: float
    driver: str


@dataclass(frozen=True)
class Hardware:
    """CPU model, usable cores, memory in GiB and NVIDIA GPUs."""

    cpu: str
    cores: int
    memory_gib: float
    gpus: list[Gpu] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        gpus = ", ".join(gpu.name for gpu in self.gpus) or "no GPU"
        return f"{self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB, {gpus}"


@cache
def detect() -> Hardware:
    """Read the machine without importing torch (milliseconds, not seconds)."""
    return Hardware(_cpu_model(), len(os.sched_getaffinity(0)), _memory_gib(), _nvidia_gpus())


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return round(total / 2**30, 1)


def _nvidia_gpus() -> list[Gpu]:
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=uuid,name,memory.total,driver_version"]
    answer = subprocess.run(
        [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        return []
    rows = [line.split(", ") for line in answer.stdout.strip().splitlines()]
    present = {uuid: Gpu(name, _gib(mib), driver) for uuid, name, mib, driver in rows}
    return _visible(present, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _gib(mib: str) -> float:
    """Memory as nvidia-smi prints it; 0 where it has none to tell (``[N/A]``: shared memory)."""
    return round(float(mib) / 1024, 1) if mib.isdigit() else 0.0


def _visible(present: dict[str, Gpu], mask: str | None) -> list[Gpu]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves: indices or UUIDs, up to the first bad one."""
    gpus = list(present.values())
    if mask is None:
        return gpus
    visible = []
    for entry in map(str.strip, mask.split(",")):
        named = [gpu for uuid, gpu in present.items() if entry and uuid.startswith(entry)]
        if entry.isdigit() and int(entry) < len(gpus):
            visible.append(gpus[int(entry)])
        elif len(named) == 1:
            visible += named
        else:
            break
    return visible


def torch_has_cuda() -> bool:
    """Whether the installed torch is a CUDA build, read from its version (without importing it)."""
    return not version("torch").endswith("+cpu")


def choose_device(asked: str, hardware: Hardware, *, cuda_build: bool | None = None) -> str:
    """``auto`` takes CUDA when a GPU and a torch that can use it are here.

    Parameters
    ----------
    cuda_build
        Whether torch can use a GPU (default: :func:`torch_has_cuda`).

    Raises
    ------
    InputError
        When CUDA is asked for and is not to be had.
    """
    cuda_build = torch_has_cuda() if cuda_build is None else cuda_build
    if asked == "auto":
        return "cuda" if hardware.gpus and cuda_build else "cpu"
    if asked == "cuda" and not hardware.gpus:
        raise InputError(
            "--device cuda: no GPU is visible here (nvidia-smi, CUDA_VISIBLE_DEVICES); "
            "use --device cpu, or run `make doctor` to see what is missing"
        )
    if asked == "cuda" and not cuda_build:
        raise InputError(
            f"--device cuda: torch {version('torch')} is built without CUDA; use --device cpu, "
            "or install requirements/gpu.txt (make setup ACCEL=gpu)"
        )
    return asked


def choose_procs(asked: int | str, device: str, hardware: Hardware) -> int:
    """Ranks: ``auto`` is every GPU, or 2 on CPU; more ranks than GPUs is an error."""
    if asked == "auto":
        return len(hardware.gpus) if device == "cuda" else 2
    procs = int(asked)
    limit = len(hardware.gpus) if device == "cuda" else 64
    if not 1 <= procs <= limit:
        what = f"{limit} GPU(s) here" if device == "cuda" else "at most 64 ranks on CPU"
        raise InputError(f"--procs {procs}: must be between 1 and {limit} ({what})")
    return procs


def versions() -> dict[str, str]:
    """Python and the packages whose version changes a result."""
    found = {"python": platform.python_version()}
    packages = {
        "torch": ("torch",),
        "numpy": ("numpy",),
        "faiss": ("faiss-cpu", "faiss-gpu"),
        "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
        "torchserve": ("torchserve",),
        "fairlearn": ("fairlearn",),
        "scipy": ("scipy",),
    }
    for name, candidates in packages.items():
        for candidate in candidates:
            try:
                found[name] = version(candidate)
                break
            except PackageNotFoundError:
                continue
    return found
