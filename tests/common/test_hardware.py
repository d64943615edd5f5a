"""What the machine is, and which device and how many ranks a run gets on it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from common.errors import InputError
from common.hardware import (
    Gpu,
    Hardware,
    _nvidia_gpus,
    choose_device,
    choose_procs,
    detect,
    torch_has_cuda,
    versions,
)

ROOT = Path(__file__).resolve().parents[2]
CPU_ONLY = Hardware("cpu", 2, 8.0)
EIGHT = Hardware("cpu", 64, 500.0, [Gpu("H200", 139.8, "570")] * 8)


def test_the_machine_is_described() -> None:
    here = detect()
    assert here.cpu
    assert here.cores == len(os.sched_getaffinity(0))
    assert 0 < here.memory_gib <= round(psutil.virtual_memory().total / 2**30, 1)
    assert f"{here.cores} cores" in here.sentence
    assert "no GPU" in CPU_ONLY.sentence
    assert "H200, H200" in EIGHT.sentence


def test_looking_at_the_machine_does_not_load_torch() -> None:
    script = "import sys; from common.hardware import detect, versions; detect(); versions()\n"
    script += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_versions_are_those_of_the_installed_packages() -> None:
    import numpy
    import torch

    found = versions()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == numpy.__version__
    assert found["torch"] == torch.__version__
    assert torch_has_cuda() == (torch.version.cuda is not None)


@pytest.mark.parametrize(
    ("asked", "machine", "cuda_build", "device"),
    [
        ("auto", CPU_ONLY, True, "cpu"),
        ("auto", EIGHT, True, "cuda"),
        ("auto", EIGHT, False, "cpu"),
        ("cpu", EIGHT, True, "cpu"),
        ("cuda", EIGHT, True, "cuda"),
    ],
)
def test_the_device_is_what_the_machine_and_torch_allow(
    asked: str, machine: Hardware, cuda_build: bool, device: str
) -> None:
    assert choose_device(asked, machine, cuda_build=cuda_build) == device


def test_cuda_that_is_not_to_be_had_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"no GPU is visible here.*--device cpu.*make doctor"):
        choose_device("cuda", CPU_ONLY, cuda_build=True)
    with pytest.raises(InputError, match=r"torch .* is built without CUDA.*--device cpu"):
        choose_device("cuda", EIGHT, cuda_build=False)


@pytest.mark.parametrize(
    ("asked", "device", "machine", "procs"),
    [
        ("auto", "cpu", CPU_ONLY, 2),
        ("auto", "cpu", EIGHT, 2),
        ("auto", "cuda", EIGHT, 8),
        (3, "cpu", CPU_ONLY, 3),
        (8, "cuda", EIGHT, 8),
    ],
)
def test_ranks_are_one_a_gpu_or_two_on_cpu(
    asked: int | str, device: str, machine: Hardware, procs: int
) -> None:
    assert choose_procs(asked, device, machine) == procs


@pytest.mark.parametrize(
    ("asked", "device", "limit"), [(9, "cuda", "8 GPU"), (65, "cpu", "64 ranks"), (0, "cpu", "64")]
)
def test_more_ranks_than_the_machine_has_is_bad_input(asked: int, device: str, limit: str) -> None:
    with pytest.raises(InputError, match=rf"--procs {asked}: must be between 1 and .*{limit}"):
        choose_procs(asked, device, EIGHT)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that prints what nvidia-smi prints on a machine with three GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\ncat <<END\n"
        "GPU-aa11, NVIDIA H200, 143771, 570.124\n"
        "GPU-bb22, NVIDIA H200, 143771, 570.124\n"
        "GPU-cc33, NVIDIA GB10, [N/A], 580.95\n"
        "END\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def test_gpus_are_read_also_where_one_cannot_tell_its_memory(nvidia_smi: Path) -> None:
    h200, gb10 = Gpu("NVIDIA H200", 140.4, "570.124"), Gpu("NVIDIA GB10", 0.0, "580.95")
    assert _nvidia_gpus() == [h200, h200, gb10]


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        ("", []),
        ("-1", []),
        ("2", ["GB10"]),
        ("2,0", ["GB10", "H200"]),
        ("GPU-cc", ["GB10"]),
        ("0, 9, 1", ["H200"]),
        ("none", []),
    ],
)
def test_hidden_gpus_are_not_counted(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch, mask: str, names: list[str]
) -> None:
    """Eight ranks on the one GPU that CUDA_VISIBLE_DEVICES leaves would all fail."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert [gpu.name.removeprefix("NVIDIA ") for gpu in _nvidia_gpus()] == names


def test_a_driver_that_does_not_answer_is_no_gpu(nvidia_smi: Path) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert _nvidia_gpus() == []
