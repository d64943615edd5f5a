"""The command line every lab shares: defaults by scale, clear refusals, a quick --help."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.errors import InputError, require
from common.options import RunOptions, parse

ROOT = Path(__file__).resolve().parents[2]
LABS = sorted(path.parent.name for path in ROOT.glob("labs/lab*/__main__.py"))


@dataclass(frozen=True)
class Config:
    steps: int = 10
    """Optimiser steps (> 0)."""
    rate: float = 0.1
    """Learning rate."""
    fused: bool = False
    """Use the fused kernel."""

    def __post_init__(self) -> None:
        require(self.steps > 0, "steps", self.steps, "must be > 0", "try 10")


SCALES = {"smoke": Config(steps=1), "standard": Config(), "full": Config(steps=1000)}


def parsed(*arguments: str) -> tuple[RunOptions, Config]:
    return parse("python -m labs.tiny", "A tiny lab", SCALES, arguments)


@pytest.mark.parametrize(("scale", "steps"), [("smoke", 1), ("standard", 10), ("full", 1000)])
def test_the_scale_gives_the_defaults_of_the_configuration(scale: str, steps: int) -> None:
    for arguments in (
        ["--scale", scale],
        [f"--scale={scale}"],
        ["--rate", "0.1", "--scale", scale],
    ):
        options, config = parsed(*arguments)
        assert (options.scale, config) == (scale, Config(steps=steps))


def test_no_argument_at_all_is_the_standard_scale() -> None:
    assert parsed() == (RunOptions(), SCALES["standard"])


def test_no_argument_on_a_real_command_line_is_the_standard_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["labs.tiny"])
    assert parse("python -m labs.tiny", "", SCALES) == (RunOptions(), SCALES["standard"])


def test_one_field_is_overridden_and_the_others_stay_those_of_the_scale() -> None:
    _, config = parsed("--scale", "full", "--rate", "0.5", "--fused")
    assert config == Config(steps=1000, rate=0.5, fused=True)


def test_the_last_of_two_scales_counts_for_both_halves() -> None:
    options, config = parsed("--scale", "smoke", "--scale", "full")
    assert (options.scale, config.steps) == ("full", 1000)


def test_every_shared_option_is_read() -> None:
    line = "--device cpu --procs 3 --out results --seed 7 --mine --strict --track mlflow"
    options, _ = parsed(*line.split())
    expected = RunOptions("standard", "cpu", 3, Path("results"), 7, True, True, "mlflow")
    assert options == expected


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--scale", "huge"], ["--scale huge", "smoke, standard, full"]),
        (["--scale=huge"], ["--scale huge", "smoke, standard, full"]),
        (["--steps", "0"], ["steps = 0", "must be > 0", "try 10"]),
        (["--seed", "-1"], ["--seed = -1", "2147483647"]),
        (["--seed", str(2**31)], ["--seed = 2147483648", "2147483647"]),
        (["--procs", "0"], ["--procs = 0", "at least 1", "auto"]),
        (["--out", "/etc/hostname/runs"], ["/etc/hostname", "is a file", "name a folder"]),
    ],
)
def test_a_value_outside_its_limits_is_named_with_the_limit(
    arguments: list[str], named: list[str]
) -> None:
    with pytest.raises(InputError) as refusal:
        parsed(*arguments)
    for part in named:
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--scale"], ["--scale"]),
        (["--device", "tpu"], ["tpu", "--device", "auto", "cpu", "cuda"]),
        (["--track", "csv"], ["csv", "none", "mlflow", "wandb"]),
        (["--procs", "many"], ["many", "--procs"]),
        (["--steps", "ten"], ["ten", "--steps"]),
        (["--stepz", "10"], ["--stepz"]),
        (["surplus"], ["surplus"]),
    ],
)
def test_a_command_line_that_cannot_be_read_exits_2_with_one_error_on_stderr(
    arguments: list[str], named: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        parsed(*arguments)
    assert leaving.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    for part in named:
        assert part in err, f"{part!r} is not in {err!r}"
    assert "Traceback" not in err


@pytest.mark.parametrize("module", [*(f"labs.{lab}" for lab in LABS), "capstone"])
def test_help_answers_at_once_and_loads_nothing_heavy(module: str) -> None:
    """Someone who asks what the options are should not wait for torch."""
    script = (
        "import atexit, runpy, sys\n"
        "heavy = ('torch', 'faiss', 'pandas', 'transformers', 'matplotlib', 'mlflow', 'scipy')\n"
        "atexit.register(lambda: print('loaded:', [m for m in heavy if m in sys.modules]))\n"
        f"sys.argv = ['{module}', '--help']\n"
        f"runpy.run_module('{module}', run_name='__main__')\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer.returncode == 0, answer.stderr
    assert "--scale {smoke,standard,full}" in answer.stdout
    assert answer.stdout.rstrip().endswith("loaded: []")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 1.0, f"--help took {spent:.2f} s of processor time, more than 1 s"


@pytest.mark.parametrize("module", [*(f"labs.{lab}" for lab in LABS), "capstone"])
def test_a_wrong_scale_of_a_real_lab_exits_2_with_one_line(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", module, "--scale", "huge", "--out", str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr == (
        "error: --scale huge: no such scale; choose smoke, standard, full\n"
    ), answer.stderr
    assert answer.stdout == ""
    assert list(tmp_path.iterdir()) == []
