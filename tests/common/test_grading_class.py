"""``course grade`` as an instructor gives it: from a folder of submissions to grades."""

from __future__ import annotations

import csv
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

from common.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK
from common.exercises import cli
from common.grading import grade_class
from tests.common.tiny_lab import LAB, write_repository, write_work

STAND_IN = """
import os, sys
from pathlib import Path
from common.grading.model import GradedExercise, GradedSubmission
from common.grading.worker import connect, serve

connection, setup = connect(int(sys.argv[1]))

def grade(request):
    files = {file.name: file.read_text() for file in Path(request["path"]).rglob("*.py")}
    if "crash" in files.get("arithmetic.py", ""):
        os._exit(9)
    rows = [("9.1", 4, "arithmetic.py"), ("9.2", 3, "ranking.py"), ("9.3", 2, "ranking.py")]
    exercises = [
        GradedExercise(i, i, setup["lab"], points, "passed" if name in files else "failed")
        for i, points, name in rows
    ]
    return GradedSubmission(request["student"], setup["lab"], exercises, alerts=["an alert"])

serve(connection, grade)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one tiny lab; a worker that looks only which files are there."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN, encoding="utf-8")
    monkeypatch.setattr(grade_class, "WORKER", [sys.executable, str(script)])
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    monkeypatch.chdir(tmp_path)
    return write_repository(tmp_path / "repository")


def course(root: Path, *arguments: str) -> int:
    return cli.main(["grade", "submissions", *arguments, "--jobs", "1"], root=root)


def scores(out: Path) -> dict[str, str]:
    with (out / "grades.csv").open(encoding="utf-8", newline="") as stream:
        return {row["student_id"]: row["score"] for row in csv.DictReader(stream)}


def graded_when(out: Path, student: str) -> int:
    return (out / ".grading" / "records" / f"{student}.json").stat().st_mtime_ns


def test_a_class_is_graded_and_graded_again_only_where_it_changed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The seed is printed once, kept for the instructor, and in nothing that students are given."""
    for student in ("ada", "bob"):
        write_work(tmp_path / "submissions" / student)
    assert course(root, "--lab", LAB) == EXIT_OK
    out = tmp_path / "grades"
    assert scores(out) == {"ada": "9", "bob": "9"}
    kept = json.loads((out / ".grading" / "batch.json").read_text())
    seed = str(kept["secret_seed"])
    assert f"secret seed {seed}" in capsys.readouterr().out
    assert (out / ".grading").stat().st_mode & 0o077 == 0
    public = [file for file in out.rglob("*") if file.is_file() and ".grading" not in file.parts]
    names = sorted(str(file.relative_to(out)) for file in public)
    assert names == [
        *("ada/junit.xml", "ada/results.json", "bob/junit.xml", "bob/results.json"),
        *("gradebook.html", "grades.csv", "junit.xml"),
    ]
    assert [file for file in public if seed in file.read_text(encoding="utf-8")] == []

    before = graded_when(out, "ada")
    (tmp_path / "submissions" / "bob" / "work" / LAB / "ranking.py").unlink()
    assert course(root) == EXIT_OK, "the lab need not be named: there is only one"
    assert scores(out) == {"ada": "9", "bob": "4"}
    assert graded_when(out, "ada") == before
    assert f"secret seed {seed}" in capsys.readouterr().out
    assert course(root, "--secret-seed", "7") == EXIT_OK
    assert graded_when(out, "ada") > before, "another seed is another grading"
    assert course(root, "--reset") == EXIT_OK
    assert json.loads((out / ".grading" / "batch.json").read_text())["secret_seed"] != 7


def test_what_could_not_be_graded_is_no_zero_and_says_so(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1, an empty cell, the student's name; the others have their grades."""
    write_work(tmp_path / "submissions" / "ada")
    write_work(tmp_path / "submissions" / "bob", arithmetic="crash")
    assert course(root) == EXIT_FAILED
    assert scores(tmp_path / "grades") == {"ada": "9", "bob": ""}
    assert "'bob': the grader ended with status 9" in capsys.readouterr().out
    assert "no grade" in (tmp_path / "grades" / "gradebook.html").read_text(encoding="utf-8")


def test_code_beside_the_submissions_is_not_imported(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python looks for modules in the folder it starts in, and that one may hold a submission's."""
    write_work(tmp_path / "submissions" / "ada")
    package = tmp_path / "submissions" / "common"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')")
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.chdir(tmp_path / "submissions")
    monkeypatch.setattr(grade_class, "WORKER", [sys.executable, "-m", "common.errors"])
    asked = ["grade", "../submissions", "--lab", LAB, "--out", "../grades"]
    assert cli.main(asked, root=root) == EXIT_FAILED, "the worker only imports and ends"
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--jobs", "0"], "--jobs = 0 must be at least 1"),
        (["--secret-seed", "-1"], "--secret-seed = -1 must lie in 0 to 2,147,483,647"),
        (["--timeout", "0"], "--timeout = 0.0 must lie in 1 to 86,400 seconds"),
        (["--timeout", "nan"], "--timeout = nan"),
        (["--memory", "1"], "--memory = 1 must lie in 256 to 1,048,576 MB"),
        (["--lab", "lab8"], "'lab8' is no lab; choose lab9_tiny"),
        (["--out", "submissions/grades"], "lie in each other"),
        (["--out", "/proc/grades"], "cannot write there"),
    ],
)
def test_bad_arguments_are_one_clear_error(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    """The message names value, limit and fix."""
    write_work(tmp_path / "submissions" / "ada")
    asked = ["grade", "submissions", "--jobs", "1", *arguments]
    assert cli.main(asked, root=root) == EXIT_BAD_INPUT
    assert said in capsys.readouterr().err


def test_submissions_of_several_labs_need_the_lab(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which one is meant is not guessed: the message names each, and how many hold it."""
    other = root / "labs" / "lab8_other"
    other.mkdir()
    write_work(tmp_path / "submissions" / "ada")
    with zipfile.ZipFile(tmp_path / "submissions" / "bob.zip", "w") as archive:
        archive.writestr("work/lab8_other/x.py", "")
        archive.writestr(f"work/{LAB}/ranking.py", "")
    (tmp_path / "submissions" / "eve.zip").write_bytes(b"PK no zip")
    assert course(root) == EXIT_BAD_INPUT
    assert f"hold lab8_other (1), {LAB} (2)" in capsys.readouterr().err


def test_a_folder_of_grades_belongs_to_one_lab(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Grades of two labs in one table would be added up by somebody."""
    write_work(tmp_path / "submissions" / "ada")
    assert course(root) == EXIT_OK
    file = tmp_path / "grades" / ".grading" / "batch.json"
    file.write_text(file.read_text().replace(LAB, "lab8_other"))
    assert course(root) == EXIT_BAD_INPUT
    assert "holds grades of lab8_other, not of lab9_tiny" in capsys.readouterr().err
    file.write_text("{")
    assert course(root) == EXIT_BAD_INPUT
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_a_class_graded_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours gets all that can run here, nothing gets nothing, a mistake costs its exercise alone."""
    monkeypatch.chdir(tmp_path)
    root = write_repository(tmp_path / "repository")
    handed_in = tmp_path / "submissions"
    mean = (root / "labs" / LAB / "arithmetic.py").read_text(encoding="utf-8")
    write_work(handed_in / "ada")
    write_work(handed_in / "bob", arithmetic=mean.replace("/ len(values)", "/ (len(values) - 1)"))
    write_work(handed_in / "cyd", arithmetic=mean + "\nimport os\nos._exit(0)\n")
    write_work(handed_in / "dan", arithmetic="def (\n", ranking="raise SystemExit(0)\n")
    (handed_in / "eve").mkdir()
    (handed_in / "fay.zip").write_bytes(b"PK no zip")
    with zipfile.ZipFile(handed_in / "gus.zip", "w") as archive:
        for file in (handed_in / "ada").rglob("*.py"):
            archive.write(file, os.path.relpath(file, handed_in / "ada"))
    for copy in ("hal", "hal.zip"):
        (handed_in / copy).mkdir()
    assert cli.main(["grade", "submissions", "--jobs", "2"], root=root) == EXIT_OK
    assert scores(tmp_path / "grades") == {
        "ada": "7",
        "gus": "7",
        "bob": "3",
        "cyd": "3",
        "dan": "0",
        "eve": "0",
        "fay": "0",
        "hal": "0",
    }
    page = (tmp_path / "grades" / "gradebook.html").read_text(encoding="utf-8")
    assert "needs a GPU, this machine has none" in page
    assert "handed in more than once: hal, hal.zip" in page
