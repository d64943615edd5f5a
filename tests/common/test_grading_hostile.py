"""Submissions that attack their grader: none gains a point, none disturbs its neighbours.

Each file in ``hostile/`` is a student's ``arithmetic.py``; its docstring says what it tries. All
are graded by one grader, as a class would be, two at a time, with an honest student among them.
"""

from __future__ import annotations

import ast
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.exercises.catalog import discover, find_exercise, find_root, wrong_solutions
from common.exercises.start import start
from common.exercises.stubs import splice
from common.grading.model import GradedSubmission, Submission
from common.grading.one import LabGrader
from common.grading.sandbox import Limits
from tests.common.tiny_lab import write_repository, write_work

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="another user and namespaces need root"),
]
HOSTILE = sorted((Path(__file__).parent / "hostile").glob("*.py"))
NAMES = [file.stem for file in HOSTILE]
LIMITS = Limits(
    test_s=2.0, exercise_s=20.0, memory_mb=1024, processes=48, file_mb=64, disk_mb=96, output_kb=64
)
SEED = 20_261_129
HONEST = ("honest-first", "honest-between", "honest-last")
USERS: set[int] = set()
LEFT = b"left-by-a-hostile-submission"
SEEN = {  # what the instructor is told of, beside the points that are not given
    "patches_assert_allclose": "replaces numpy.testing.assert_allclose",
    "patches_and_restores": "replaces numpy.testing.assert_allclose",
    "changes_code_objects": "changes the code of a function",
    "patches_builtins": "replaces builtins.AssertionError",
    "patches_pytest_runner": "changed",
    "patches_reports": "a comparison that must fail did not",
    "registers_a_plugin": "walks the garbage collector's objects",
    "replaces_modules": "sys.modules['numpy.testing']",
    "equals_everything": "agrees with everything",
    "hides_in_a_subclass": "agrees with everything",
    "forges_reports_on_import": "the channel carried what no driver sends",
    "forges_a_report_in_a_test": "the channel carried what no driver sends",
    "walks_the_stack": "walks the stack",
    "walks_a_traceback": "walks the stack",
    "sets_a_trace_function": "sets a trace function",
    "calls_native_code": "calls native code",
    "lies_about_its_file": "makes code that claims another file",
    "stops_the_clock": "replaces time",
    "never_ends": "took longer than",
}


@pytest.fixture(scope="module")
def grades(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, GradedSubmission]]:
    """Every submission's grade, by name."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp()))
    root = write_repository(folder / "repository")
    work = {
        file.stem: write_work(folder / file.stem, arithmetic=file.read_text(encoding="utf-8"))
        for file in HOSTILE
    }
    work |= {name: write_work(folder / name) for name in HONEST}
    order = [HONEST[0], *NAMES[: len(NAMES) // 2], HONEST[1], *NAMES[len(NAMES) // 2 :], HONEST[2]]
    with LabGrader(root, "lab9", secret_seed=SEED, limits=LIMITS) as grader:
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda name: grader.grade(Submission(name, work[name])), order))
        USERS.update(grader.sandbox.users)
        yield {each.student: each for each in found}


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_gains_no_point(grades: dict[str, GradedSubmission], name: str) -> None:
    """The attacked exercise earns nothing, whatever was tried, and says so to the student."""
    attacked = grades[name].exercises[0]
    assert (attacked.id, attacked.score) == ("9.1", 0), attacked
    assert attacked.status == "failed"
    assert attacked.reason
    assert attacked.feedback


@pytest.mark.parametrize("name", NAMES)
def test_another_exercise_of_the_same_submission_keeps_its_points(
    grades: dict[str, GradedSubmission], name: str
) -> None:
    """Exercises run apart: what one does to its process does not reach the next."""
    other = grades[name].exercises[1]
    assert (other.id, other.score) == ("9.2", 3), (other, grades[name].alerts)


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_student_is_not_disturbed(grades: dict[str, GradedSubmission], name: str) -> None:
    """Beside fork bombs and killers an honest submission gets all its points and no alert."""
    assert [each.score for each in grades[name].exercises] == [4, 3, 0]
    assert grades[name].alerts == []


@pytest.mark.parametrize(("name", "sign"), SEEN.items(), ids=list(SEEN))
def test_the_instructor_is_told(grades: dict[str, GradedSubmission], name: str, sign: str) -> None:
    """Points that are not given are not enough: somebody should read the source."""
    assert any(sign in alert for alert in grades[name].alerts), grades[name].alerts


def user_of(process: Path) -> int:
    try:
        return process.stat().st_uid
    except OSError:
        return 0


def test_nothing_is_left_behind(grades: dict[str, GradedSubmission]) -> None:
    """No process of any submission outlives its grade, and nothing was written to the disk."""
    assert len(grades) == len(NAMES) + len(HONEST)
    commands = []
    for entry in Path("/proc").iterdir():
        try:
            commands.append((entry / "cmdline").read_bytes() if entry.name.isdigit() else b"")
        except OSError:
            continue
    assert not [command for command in commands if LEFT in command]
    foreign = [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and user_of(entry) in USERS
    ]
    assert foreign == []
    for place in ("/etc/hostile", "/usr/lib/hostile", "/tmp/results.json", "/results.json"):
        assert not Path(place).exists(), place


def test_a_process_that_spies_reaches_nobody(grades: dict[str, GradedSubmission]) -> None:
    """Its parents' environment, memory and files are closed to what a submission starts."""
    assert "nothing" in grades["spies_on_processes"].exercises[0].feedback


def test_the_corpus_is_large_and_says_what_it_tries() -> None:
    """At least 30 attacks, each with a line of its own."""
    assert len(HOSTILE) >= 30
    for file in HOSTILE:
        first = file.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith('"""'), file.name
        assert first.endswith('."""'), f"{file.name}: one line says the attack"
        ast.parse(file.read_text(encoding="utf-8"))


# A lab of the course.

THEFT = '''"""Takes the reference from its own package."""
import importlib.util, pathlib
import {package} as package
place = pathlib.Path(package.__file__).with_name("{module}.py")
spec = importlib.util.spec_from_file_location("reference", place)
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
globals().update(vars(reference))
'''
OTHER, ATTACKED = "6.12", "6.2"


def test_in_a_real_lab_the_reference_earns_all_and_nothing_else_does(tmp_path: Path) -> None:
    """The reference 100 %, stubs 0 %, and a wrong solution loses the points of its own exercise.

    A file that loads the reference from its place finds a stub there.
    """
    root = find_root()
    entries = [find_exercise(discover(root), given) for given in (ATTACKED, OTHER)]
    attacked = entries[0]
    reference = attacked.file.read_text(encoding="utf-8")
    package = attacked.dotted.rpartition(".")[0]
    texts = {
        "theft": THEFT.format(package=package, module=attacked.module),
        **{
            file.stem: splice(reference, attacked.name, file.read_text(encoding="utf-8"))
            for file in wrong_solutions(root, attacked)
        },
    }
    for name in ("reference", *texts):
        for entry in entries:
            file = entry.work_file(tmp_path / name / "work")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(entry.file.read_bytes())
        if name in texts:
            attacked.work_file(tmp_path / name / "work").write_text(texts[name], encoding="utf-8")
    start(entries, tmp_path / "stubs" / "work")
    with LabGrader(root, "lab6", secret_seed=SEED, exercises=[ATTACKED, OTHER]) as grader:
        found = {
            name: grader.grade(Submission(name, tmp_path / name))
            for name in ("reference", "stubs", *texts)
        }
    earned = {name: [each.score for each in grade.exercises] for name, grade in found.items()}
    most = [entry.points for entry in entries]
    assert earned.pop("reference") == most, found["reference"].exercises
    assert earned.pop("stubs") == [0, 0]
    assert earned == {name: [0, most[1]] for name in texts}, earned
