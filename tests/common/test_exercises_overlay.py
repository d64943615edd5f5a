"""The learner's file takes the place of ours, in real processes and in torchrun ranks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRINT = "import labs.lab5_tiny.answer as m; print(m.answer(), m.__file__)"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Our answer is 1, the learner's is 2."""
    for folder in ("labs/lab5_tiny", "work/lab5_tiny", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "labs" / "__init__.py", tmp_path / "labs" / "__init__.py")
    (tmp_path / "labs/lab5_tiny/__init__.py").touch()
    (tmp_path / "labs/lab5_tiny/answer.py").write_text("def answer():\n    return 1\n")
    (tmp_path / "work/lab5_tiny/answer.py").write_text("def answer():\n    return 2\n")
    return tmp_path


def python(
    tree: Path, *arguments: str, cwd: Path | None = None, work: str | None = "work"
) -> list[str]:
    """Lines that a fresh interpreter prints."""
    env = {key: value for key, value in os.environ.items() if key != "LABS_WORK"}
    env |= {"PYTHONPATH": f"{tree}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    env |= {"LABS_WORK": work} if work is not None else {}
    command = [sys.executable, *arguments]
    answer = subprocess.run(
        command, cwd=cwd or tree, env=env, capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


@pytest.mark.parametrize(("work", "answer"), [("work", 2), (None, 1), ("", 1), ("elsewhere", 1)])
def test_a_process_loads_the_learners_file_when_there_is_one(
    tree: Path, work: str | None, answer: int
) -> None:
    folder = "work" if answer == 2 else "labs"
    (line,) = python(tree, "-c", PRINT, work=work)
    assert line == f"{answer} {tree}/{folder}/lab5_tiny/answer.py"


def test_a_relative_folder_holds_after_a_change_of_directory(tree: Path) -> None:
    """The first process fixes the folder, so a child that starts elsewhere finds it too."""
    child = f"subprocess.run([sys.executable, '-c', {PRINT!r}], check=True)"
    code = f"import os, subprocess, sys, labs; os.chdir('elsewhere'); {child}"
    (line,) = python(tree, "-c", code)
    assert line.startswith("2 ")


def test_a_save_within_the_same_second_is_a_new_version(tree: Path) -> None:
    """No bytecode cache: it is keyed by whole seconds and size, and both stay the same here."""
    file = tree / "work/lab5_tiny/answer.py"
    before = file.stat()
    assert python(tree, "-c", PRINT)[0].startswith("2 ")
    file.write_text(file.read_text().replace("2", "3"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert python(tree, "-c", PRINT)[0].startswith("3 ")
    assert not list((tree / "work").rglob("__pycache__"))


def test_a_module_of_the_learner_runs_as_a_program(tree: Path) -> None:
    file = tree / "work/lab5_tiny/answer.py"
    file.write_text(
        file.read_text() + "if __name__ == '__main__':\n    print(answer(), __file__)\n"
    )
    assert python(tree, "-m", "labs.lab5_tiny.answer") == [f"2 {file}"]


def test_every_torchrun_rank_loads_the_learners_file(tree: Path) -> None:
    worker = "import os\nfrom labs.lab5_tiny.answer import answer\n"
    worker += "open(f\"rank{os.environ['RANK']}\", 'w').write(str(answer()))\n"
    (tree / "labs/lab5_tiny/worker.py").write_text(worker)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    python(tree, *launcher, "-m", "labs.lab5_tiny.worker")
    assert [(tree / f"rank{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
