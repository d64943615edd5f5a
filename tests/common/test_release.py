"""The student's repository holds no solution and still runs; the autograder grades for real."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest
import yaml

from common.errors import InputError, RunError
from common.exercises.catalog import discover, find_root, lab_folders
from common.exercises.cli import main
from common.exercises.stubs import stub
from common.grading.submissions import find, take
from common.release import contents, leaks
from common.release.student_repository import build, write

ROOT = find_root()
LAB = "lab5_tiny"
SUMS = '''"""Sums."""

from common.exercises import exercise


@exercise("5.1", points=3, title="Weighted mean", hint="Divide by the weights.")
def weighted_mean(values: list[float], weights: list[float]) -> float:
    """The mean of values, each counted by its weight."""
    total_of_products = sum(value * weight for value, weight in zip(values, weights))
    total_of_weights = sum(weights)
    return total_of_products / total_of_weights


@exercise("5.2", points=4, title="Half", hint="Two of them make one.")
def half(x: float) -> float:
    checked = float(x)
    # BEGIN SOLUTION
    halved_with_care = checked / 2 if checked else 0.0
    return halved_with_care
    # END SOLUTION
'''
TESTS = '''import pytest
from labs.lab5_tiny.sums import half, weighted_mean
from tests.lab5_tiny.helper import THREE


@pytest.mark.exercise("5.1")
def test_weights_count():
    """A weight of two counts twice."""
    assert weighted_mean([0, THREE], [2, 1]) == 1


@pytest.mark.exercise("5.2")
def test_half():
    """Half of four is two."""
    assert half(4) == 2


def test_both():
    assert half(weighted_mean([2], [1])) == 1
'''
WRONG = '''"""Does not divide by the weights."""


def weighted_mean(values, weights):
    return sum(value * weight for value, weight in zip(values, weights)) / len(values)
'''
FILES = {
    "labs/__init__.py": "from common.exercises.overlay import install\n\ninstall()\n",
    "labs/lab5_tiny/__init__.py": "",
    "labs/lab5_tiny/README.md": "# Lab 5: tiny\n\nThe mean of values by weight.\n",
    "labs/lab5_tiny/sums.py": SUMS,
    "tests/lab5_tiny/test_sums.py": TESTS,
    "tests/lab5_tiny/test_other.py": "def test_more():\n    pass\n",
    "tests/lab5_tiny/helper.py": "THREE = 3\n",
    "tests/lab5_tiny/wrong/e5_1_no_weights.py": WRONG,
    "tests/test_repository.py": "",
    "docs/first_hour.md": "# Ten minutes\n",
    "docs/instructor_guide.md": "# Grade\n",
    "CONTRIBUTING.md": "# Contribute\n",
    ".github/workflows/cpu.yml": "name: cpu\n",
    ".gitignore": "runs/\nwork/\n",
    "requirements/cpu.txt": "",
    "common/grading/model.py": "",
    "common/grading/sandbox.py": "",
    "pyproject.toml": (ROOT / "pyproject.toml").read_text(),
    "Makefile": (ROOT / "Makefile").read_text(),
}


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An instructor's clone with one lab of two exercises."""
    root = tmp_path / "clone"
    put(root, FILES)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "One lab")
    return root


def released(tiny: Path) -> dict[str, str]:
    return {name: file.data.decode() for name, file in build(tiny, [LAB]).items()}


def test_a_release_has_stubs_and_public_tests_and_nothing_of_the_instructors(tiny: Path) -> None:
    """What a student does not need is not there, so it cannot give anything away."""
    files = released(tiny)
    assert files[f"labs/{LAB}/sums.py"] == stub(SUMS)
    assert "total_of_weights" not in "".join(files.values())
    assert {name for name in files if name.startswith("tests/")} == {
        "tests/lab5_tiny/test_sums.py", "tests/lab5_tiny/helper.py"
    }  # fmt: skip
    assert {name for name in files if name.startswith((".github", "docs", "common"))} == {
        ".github/workflows/public-tests.yml", "docs/first_hour.md", "common/grading/model.py"
    }  # fmt: skip
    assert "CONTRIBUTING.md" not in files
    assert (
        "| lab5 | [Lab 5: tiny](labs/lab5_tiny/README.md) | 2 | 7 | `make start5` |"
        in (files["README.md"])
    )
    assert files[".gitignore"].splitlines()[0] == "runs/"
    assert "work/" not in files[".gitignore"].splitlines(), "solutions are committed there"


def test_the_makefile_of_a_release_has_only_what_works_there(tiny: Path) -> None:
    """`make grade` would fail in a repository that has no grader."""
    text = released(tiny)["Makefile"]
    targets = set(re.findall(r"^([a-z0-9-]+):", text, re.MULTILINE))
    assert {"setup", "progress", "test", "clean"} <= targets
    assert not targets & {"grade", "release", "verify", "lint", "capstone", "serve", "bench-lab2"}
    assert "LABS := 5\n" in text
    phony = text[text.index(".PHONY") :].partition("\n\n")[0]
    assert not {"grade", "release", "verify", "capstone"} & set(phony.split())


def test_two_releases_of_the_same_files_are_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    """Else nobody could say which release a student has, or compare two of them."""
    for name in ("one", "two"):
        assert main(["release", "--lab", "5", "--out", str(tmp_path / name)], root=tiny) == 0
    one, two = (
        {
            path.relative_to(tmp_path / name): (path.read_bytes(), path.stat().st_mode)
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file()
        }
        for name in ("one", "two")
    )
    assert one == two
    assert json.loads(one[Path("release.json")][0])["points"] == 7


PRODUCT = "total_of_products = sum(value * weight for value, weight in zip(values, weights))"
RENAMED = "a = sum(x * w for x, w in zip(xs, ws))\nb = sum(\n    ws,\n)  # all\nreturn a / b\n"
LEAKS = {
    "lesson": (f"labs/{LAB}/README.md", f"Write `{PRODUCT}`.\n"),
    "text": (f"labs/{LAB}/quiz.toml", f"x = '''{PRODUCT.replace(' for ', chr(10) + 'for ')}'''\n"),
    "copy": (f"labs/{LAB}/other.py", SUMS.replace("@exercise", "# ")),
    "other names": (f"labs/{LAB}/near.py", f"def f(xs, ws):\n{indent(RENAMED, '    ')}"),
    "lesson, other names": (f"labs/{LAB}/lessons/mean.md", f"```python\n{RENAMED}```\n"),
    "string": (f"tests/{LAB}/helper.py", f"THREE = 3\n'''{SUMS.partition('weight.')[2]}'''\n"),
}


@pytest.mark.parametrize(("file", "text"), LEAKS.values(), ids=LEAKS.keys())
def test_a_solution_anywhere_in_a_release_is_found_and_nothing_is_written(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, text: str
) -> None:
    """One leak makes the exercise worthless for everybody: it is an error, not a warning."""
    put(tiny, {file: text})
    git(tiny, "add", "-A")
    out = tmp_path / "out"
    assert main(["release", "--out", str(out)], root=tiny) == 1
    message = capsys.readouterr().err
    assert f"{file} holds" in message
    assert "of the solution of 5.1" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone"], "something was left"


def test_a_neighbour_that_checks_the_same_inputs_is_no_leak(tiny: Path) -> None:
    """A search that cries wolf is switched off."""
    put(
        tiny,
        {"labs/lab5_tiny/near.py": "def n(ws):\n    total_of_weights = sum(ws)\n    return 1\n"},
    )
    git(tiny, "add", "-A")
    assert "labs/lab5_tiny/near.py" in released(tiny)


def test_files_that_cannot_be_searched_are_refused(tiny: Path) -> None:
    """A pickle or an archive may hold anything."""
    (tiny / "labs/lab5_tiny/cache.pkl").write_bytes(b"\x80\x04")
    git(tiny, "add", "-A")
    with pytest.raises(InputError, match=r"cache\.pkl: files of this kind"):
        build(tiny, [LAB])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to write: give --out DIR"),
        (["--classroom"], "--classroom adds to the student repository"),
        (["--out", "{}/clone"], "exists, and a release is never written over one"),
        (["--out", "{}/no/where"], "there is no folder"),
        (["--out", "{}/new", "--lab", "lab9"], "'lab9' is no lab; choose lab5_tiny"),
        (["--autograder", "{}/a.tar", "--lab", "5"], "name a file ending in .zip"),
    ],
)
def test_bad_arguments_name_the_fix(
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    given = [each.format(tmp_path) for each in arguments]
    assert main(["release", *given], root=tiny) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone"]


def test_the_capstone_is_released_with_the_labs_it_stands_on() -> None:
    with pytest.raises(InputError, match="--lab capstone runs on every lab; add lab1"):
        contents.chosen_labs(ROOT, ["capstone"])


def test_the_classroom_workflow_gives_each_exercise_its_points(tiny: Path) -> None:
    """A step that the reporter does not read would be worth nothing."""
    files = build(tiny, [LAB], classroom=True)
    workflow = yaml.safe_load(files[".github/workflows/classroom.yml"].data)
    steps = workflow["jobs"]["run-autograding-tests"]["steps"]
    graders = [step for step in steps if "command-grader" in step.get("uses", "")]
    assert {step["with"]["max-score"] for step in graders} == {3, 4}
    assert graders[0]["with"]["command"] == ".venv/bin/course check lab5_tiny 5.1"
    reporter = steps[-1]
    assert reporter["with"]["runners"].split(",") == [step["id"] for step in graders]
    assert list(reporter["env"]) == [f"{step['id'].upper()}_RESULTS" for step in graders]
    assert reporter["env"]["EXERCISE-5-1_RESULTS"] == "${{ steps.exercise-5-1.outputs.result }}"


def test_a_stub_of_a_stub_is_the_stub() -> None:
    """`course start` in a student's repository must not take out what was given."""
    once = stub(SUMS)
    assert "checked = float(x)" in once
    assert stub(once) == once


def test_a_clone_of_the_students_repository_is_graded_by_its_work(
    tiny: Path, tmp_path: Path
) -> None:
    """The stubs stand in the same clone; they must not be taken for what was handed in."""
    clone = tmp_path / "students" / "ada"
    clone.parent.mkdir()
    write(build(tiny, [LAB]), clone)
    put(clone, {f"work/{LAB}/sums.py": SUMS})
    (submission,) = find(clone.parent)
    taken = take(submission, discover(tiny))
    assert taken.files == {f"{LAB}/sums.py": SUMS.encode()}
    assert taken.problems == []


# --- the autograder ---------------------------------------------------------------------------


def test_an_autograder_is_the_same_bytes_twice_and_its_scripts_parse(
    tiny: Path, tmp_path: Path
) -> None:
    zips = [tmp_path / name for name in ("one.zip", "two.zip")]
    for each in zips:
        assert main(["release", "--lab", "5", "--autograder", str(each)], root=tiny) == 0
    assert zips[0].read_bytes() == zips[1].read_bytes()
    with zipfile.ZipFile(zips[0]) as archive:
        names = archive.namelist()
        assert names[:2] == ["setup.sh", "run_autograder"], "Gradescope looks for them at the top"
        assert not [name for name in names if "/wrong/" in name]
        for name in names[:2]:
            assert archive.getinfo(name).external_attr >> 16 & 0o111
            subprocess.run(["bash", "-n"], input=archive.read(name), check=True)


@pytest.mark.slow
def test_run_autograder_grades_what_gradescope_lays_out(tiny: Path, tmp_path: Path) -> None:
    """setup.sh once, then run_autograder on a submission: one exercise right, one still a stub."""
    ours = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "common", tiny / "common", dirs_exist_ok=True, ignore=ours)
    git(tiny, "add", "-A")
    assert main(["release", "--lab", "5", "--autograder", str(tmp_path / "a.zip")], root=tiny) == 0
    autograder = tmp_path / "autograder"
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(autograder / "source")
    (autograder / "venv").symlink_to(Path(sys.executable).parents[1])
    half = SUMS.partition("# BEGIN")[0] + "return x / 2\n"
    solved = stub(SUMS).partition('@exercise("5.2"')[0] + '@exercise("5.2"'
    put(autograder / "submission/work", {f"{LAB}/sums.py": solved + half.partition('("5.2"')[2]})
    env = {key: value for key, value in os.environ.items() if key != "LABS_WORK"}
    env |= {"AUTOGRADER": str(autograder), "OMP_NUM_THREADS": "1"}
    for script in ("setup.sh", "run_autograder"):
        answer = subprocess.run(
            ["bash", str(autograder / "source" / script)], env=env, capture_output=True, text=True
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
    results = json.loads((autograder / "results/results.json").read_text())
    rows = {row["number"]: (row["score"], row["max_score"]) for row in results["tests"]}
    assert rows == {"5.1": (0, 3), "5.2": (4, 4)}, results
    assert (autograder / "source").stat().st_mode & 0o077 == 0, "others could read the solution"
    assert (autograder / "source/secret_seed").stat().st_mode & 0o077 == 0


# --- the whole course -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The student's repository of every lab: making it proves that nothing leaks."""
    folder = tmp_path_factory.mktemp("release") / "student"
    write(build(ROOT, [path.name for path in lab_folders(ROOT)]), folder)
    yield folder
    shutil.rmtree(folder)


def python(student: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "LABS_WORK"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=student, env=env | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_exercise_of_the_release_is_a_stub(student: Path) -> None:
    ours, theirs = discover(ROOT), discover(student)
    assert [(each.id, each.points) for each in theirs] == [(each.id, each.points) for each in ours]
    for entry in theirs:
        raised = f'raise NotImplementedError("exercise {entry.id}: '
        assert raised in entry.file.read_text(encoding="utf-8"), entry.id
    assert not list(student.rglob("wrong"))


@pytest.mark.slow
def test_every_link_of_the_release_leads_somewhere(student: Path) -> None:
    for page in student.rglob("*.md"):
        for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", link):
                assert (page.parent / link).exists(), f"{page.relative_to(student)}: {link}"


@pytest.mark.slow
def test_a_student_starts_solves_and_checks(student: Path) -> None:
    """The course works there as it does in the instructor's clone, on the files in work/."""
    course = ("-m", "common.exercises.cli")
    assert python(student, *course, "start", "lab6", "6.16").returncode == 0
    mine = student / "work/lab6_online_eval/power.py"
    assert mine.read_bytes() == (student / "labs/lab6_online_eval/power.py").read_bytes()
    unsolved = python(
        student, "-c", "from labs.lab6_online_eval import power; print(power.__file__)"
    )
    assert unsolved.stdout.strip() == str(mine), "work/ counts there without being asked for"
    shutil.copy(ROOT / "labs/lab6_online_eval/power.py", mine)
    checked = python(student, *course, "check", "lab6", "6.16")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    listed = python(student, *course, "progress")
    assert "1 of 25" in listed.stdout, listed.stdout
    refused = python(student, *course, "release", "--out", "x")
    assert refused.returncode == 2
    assert "invalid choice: 'release'" in refused.stderr


@pytest.mark.slow
def test_what_is_not_solved_ends_a_run_in_one_line_and_skips_a_test(student: Path) -> None:
    """A traceback would say where it happened, not what to do."""
    code = (
        "from common.runner import main\n"
        "from labs.lab6_online_eval.config import SCALES\n"
        "from labs.lab6_online_eval.srm import srm_test\n"
        "main('lab6_online_eval', SCALES, lambda run, config: srm_test([1, 2], [.5, .5]),"
        " title='t', argv=['--scale', 'smoke'])"
    )
    answer = python(student, "-c", code)
    assert answer.returncode == 1, answer.stderr
    assert answer.stderr.strip() == (
        "error: exercise 6.5: Test for a sample ratio mismatch: not solved yet, and this needs it; "
        "`course start lab6` puts srm_test into work/lab6_online_eval/srm.py, "
        "`course check lab6 6.5` checks it"
    )
    tests = python(
        student, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not exercise",
        "tests/lab6_online_eval/test_srm.py",
    )  # fmt: skip
    assert tests.returncode == 0, tests.stdout
    assert "needs exercise 6.5, which is not solved yet" in tests.stdout


def test_lines_are_the_same_whatever_their_layout() -> None:
    """A leak stays one when it is wrapped, commented or written with other quotes."""
    one, two = (
        [line.shape for line in leaks.logical_lines(text)]
        for text in ("x = f(a, 'b')\n", 'y = f(\n    z,  # why\n    "b",\n)\n')
    )
    assert one == two


def test_a_leak_is_an_error_that_names_at_most_ten_files(tiny: Path) -> None:
    put(tiny, {f"labs/{LAB}/copy{number}.py": SUMS.replace("@", "# ") for number in range(12)})
    git(tiny, "add", "-A")
    with pytest.raises(RunError, match=r"and 1\d more"):
        build(tiny, [LAB])
