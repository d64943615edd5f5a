"""Grading one submission: what is taken from it, how it is run, what is earned and said."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputError
from common.exercises.catalog import Entry, discover
from common.exercises.prerequisites import reached_modules
from common.grading import (
    carried,
    feedback,
    manifest,
    private_tree,
    submissions,
    trusted_integrity,
)
from common.grading.canaries import write as write_canaries
from common.grading.model import GradedSubmission, Submission
from common.grading.one import LabGrader
from common.grading.sandbox import Limits, Ran
from common.grading.source_signs import signs
from tests.common.tiny_lab import FILES, LAB, write_repository, write_work

LIMITS = Limits(test_s=20, exercise_s=60, memory_mb=2048, disk_mb=64)
MODULE = f"labs/{LAB}/arithmetic.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def entries(root: Path) -> list[Entry]:
    return discover(root)


@pytest.fixture(scope="module")
def grader(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabGrader]:
    cache = tmp_path_factory.mktemp("cache")
    with LabGrader(root, LAB, secret_seed=5, limits=LIMITS, cache=cache) as ready:
        yield ready


def graded(grader: LabGrader, folder: Path, **files: str) -> GradedSubmission:
    return grader.grade(Submission(folder.name, write_work(folder, **files)))


# What is taken.


def handed_in(folder: Path, **files: bytes) -> Submission:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path = path.with_name(f"{path.name}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Submission(folder.name, folder)


@pytest.mark.parametrize("around", ["", "work/", "anna_123/", "anna_123/work/"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_work_is_found_with_and_without_folders_around_it(
    tmp_path: Path, entries: list[Entry], around: str, packed: bool
) -> None:
    """Course platforms add a folder, students leave one out."""
    path = tmp_path / "anna"
    if packed:
        path = tmp_path / "anna.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{around}{LAB}/arithmetic.py", "x = 1")
    else:
        (path / around / LAB).mkdir(parents=True)
        (path / around / LAB / "arithmetic.py").write_text("x = 1")
    taken = submissions.take(Submission("anna", path), entries)
    assert taken.files == {f"{LAB}/arithmetic.py": b"x = 1"}
    assert f"{LAB}/ranking.py: not handed in" in taken.problems


def test_only_files_of_exercises_are_taken_and_the_others_named(
    tmp_path: Path, entries: list[Entry]
) -> None:
    """Tests, settings and helpers come from the instructor alone."""
    path = write_work(tmp_path / "ben")
    for name in ("conftest.py", f"tests/{LAB}/test_arithmetic.py", f"work/{LAB}/helper.py"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("assert False")
    taken = submissions.take(Submission("ben", path), entries)
    assert set(taken.files) == {f"{LAB}/arithmetic.py", f"{LAB}/ranking.py"}
    (problem,) = taken.problems
    for name in ("conftest.py", "test_arithmetic.py", "helper.py"):
        assert name in problem, problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"\x7fELF\0\0", "a binary file"),
        (b"x = '\xff'", "not UTF-8"),
        (b"def mean(values:\n", f"{LAB}/arithmetic.py:1:"),
        (b"def average(values):\n    return 0\n", "mean of exercise 9.1 is gone"),
        (b"(" * 100_000, f"{LAB}/arithmetic.py"),
        (b"x = 1\n" * 400_000, "larger than 1 MB"),
    ],
    ids=["empty", "binary", "latin-1", "half", "renamed", "nested", "large"],
)
def test_a_bad_file_is_named_with_its_fault(
    tmp_path: Path, entries: list[Entry], content: bytes, problem: str
) -> None:
    """The student reads what is wrong; nothing is raised."""
    files = {f"work__{LAB}__arithmetic": content, f"work__{LAB}__ranking": b"x"}
    taken = submissions.take(handed_in(tmp_path / "cem", **files), entries)
    assert any(problem in each for each in taken.problems), taken.problems


def test_a_sparse_file_of_a_gigabyte_is_not_read(tmp_path: Path, entries: list[Entry]) -> None:
    """Its size is enough to know."""
    file = tmp_path / "dora" / LAB / "arithmetic.py"
    file.parent.mkdir(parents=True)
    with file.open("wb") as stream:
        stream.truncate(1 << 30)
    taken = submissions.take(Submission("dora", tmp_path / "dora"), entries)
    assert taken.files == {}
    assert f"{LAB}/arithmetic.py: larger than 1 MB (1,024 MB)" in taken.problems


def test_links_and_pipes_are_not_followed(tmp_path: Path, entries: list[Entry]) -> None:
    """A link may point to the instructor's solution; a pipe would wait for ever."""
    folder = tmp_path / "eva" / LAB
    folder.mkdir(parents=True)
    (folder / "arithmetic.py").symlink_to("/etc/passwd")
    os.mkfifo(folder / "ranking.py")
    (tmp_path / "eva" / "work").symlink_to(folder)
    taken = submissions.take(Submission("eva", tmp_path / "eva"), entries)
    assert taken.files == {}
    assert f"{LAB}/arithmetic.py: a symbolic link" in taken.problems
    assert f"{LAB}/ranking.py: no regular file" in taken.problems


def test_a_zip_with_unsafe_members_gives_only_the_safe_ones(
    tmp_path: Path, entries: list[Entry]
) -> None:
    """Nothing is unpacked: not above the folder, not as a link, not what grows on the way."""
    path = tmp_path / "finn.zip"
    link = zipfile.ZipInfo(f"{LAB}/ranking.py")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"../{LAB}/arithmetic.py", "slipped")
        archive.writestr(f"/{LAB}/arithmetic.py", "slipped")
        archive.writestr(f"x/y/z/{LAB}/arithmetic.py", bytes(1 << 24))
        archive.writestr(link, "/etc/passwd")
    taken = submissions.take(Submission("finn", path), entries)
    assert taken.files == {}
    assert f"{LAB}/ranking.py: a symbolic link" in taken.problems
    assert any("unsafe path" in problem for problem in taken.problems)
    assert list(tmp_path.iterdir()) == [path]


def test_a_zip_bomb_is_read_to_its_limit(tmp_path: Path, entries: list[Entry]) -> None:
    """A member whose directory entry lies about its size stops at a megabyte."""
    path = tmp_path / "gina.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{LAB}/arithmetic.py", bytes(1 << 26))
    raw = path.read_bytes().replace((1 << 26).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    path.write_bytes(raw)
    taken = submissions.take(Submission("gina", path), entries)
    assert sum(map(len, taken.files.values())) <= 1 << 20
    assert taken.problems


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no zip", b"Rar!\x1a\7"], ids=str)
def test_an_unreadable_zip_is_a_problem(
    tmp_path: Path, entries: list[Entry], content: bytes
) -> None:
    (path := tmp_path / "hans.zip").write_bytes(content)
    taken = submissions.take(Submission("hans", path), entries)
    assert taken.files == {}
    assert len(taken.problems) == 1, f"not one line for each module too: {taken.problems}"
    assert "it cannot be read" in taken.problems[0]


def test_a_module_handed_in_twice_is_a_problem(tmp_path: Path, entries: list[Entry]) -> None:
    """Which of the two is meant is not for the grader to guess: the student is told."""
    files = {f"work__{LAB}__arithmetic": b"a = 1", f"{LAB}__arithmetic": b"b = 2"}
    taken = submissions.take(handed_in(tmp_path / "ines", **files), entries)
    assert any("handed in twice" in problem for problem in taken.problems)


def test_submissions_are_found_and_what_is_none_says_why(tmp_path: Path) -> None:
    """One line for everything that lies in the folder; two of one student are graded neither.

    Names come from all over the world and from systems that store accents as signs of their own
    (``o`` and U+0308): none of that is a reason to lose points.
    """
    plain = ("anna", "Seán O'Brien", "Doe, Jane (B)", "so\u0308ren", "<b>&")
    for name in (*plain, "Ben", "c" * 121, "two\nlines"):
        (tmp_path / name).mkdir()
    for name in ("ben.zip", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "anna")
    found = {each.path.name: each.problem for each in submissions.find(tmp_path)}
    assert {name: found[name] for name in plain} == dict.fromkeys(plain, "")
    assert found["Ben"] == found["ben.zip"] == "handed in more than once: Ben, ben.zip; leave one"
    assert "neither a folder nor a zip" in found["notes.txt"]
    assert "symbolic link" in found["link"]
    assert "all printable" in found["c" * 121]
    assert "all printable" in found["two\nlines"]


def test_a_name_is_the_same_however_its_accents_are_stored(tmp_path: Path) -> None:
    """One system stores an accent in the letter, another as a sign behind it; both are one name."""
    for name in ("s\u00f6ren", "so\u0308ren"):
        (tmp_path / name).mkdir()
    problems = [each.problem for each in submissions.find(tmp_path)]
    assert all("more than once" in problem for problem in problems), problems


def test_a_folder_without_submissions_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no submission"):
        submissions.find(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        submissions.find(tmp_path / "absent")


# The private tree.


def test_the_private_tree_holds_stubs_and_nobody_elses_code(root: Path, tmp_path: Path) -> None:
    """A solution that is nowhere cannot be read; tests and helpers are all there."""
    private_tree.build(root, LAB, tmp_path / "tree")
    text = (tmp_path / "tree" / MODULE).read_text()
    assert "raise NotImplementedError" in text
    assert "values.sum()" not in text
    names = {
        file.relative_to(tmp_path / "tree").as_posix() for file in private_tree_files(tmp_path)
    }
    assert f"tests/{LAB}/test_arithmetic.py" in names
    assert "common/grading/trusted_driver.py" in names
    assert not [name for name in names if "wrong" in name or name.endswith("grading/one.py")]
    compiled = list((tmp_path / "tree").glob(f"labs/{LAB}/__pycache__/arithmetic*.pyc"))
    assert all(b"no values" not in file.read_bytes() for file in compiled)


def private_tree_files(tmp_path: Path) -> list[Path]:
    return [file for file in (tmp_path / "tree").rglob("*") if file.is_file()]


def test_the_digest_changes_with_a_test(tmp_path: Path) -> None:
    """A manifest or a grade of other tests must not be taken for one of these."""
    root = write_repository(tmp_path)
    before = private_tree.digest(root, LAB)
    test = root / f"tests/{LAB}/test_ranking.py"
    test.write_text(test.read_text() + "\n")
    assert private_tree.digest(root, LAB) != before


# The grade.


def test_the_reference_earns_everything_that_can_run(grader: LabGrader, tmp_path: Path) -> None:
    """What needs a GPU that is absent is not run, says so, and earns nothing."""
    found = graded(grader, tmp_path / "reference")
    assert [(each.id, each.status, each.score) for each in found.exercises] == [
        ("9.1", "passed", 4),
        ("9.2", "passed", 3),
        ("9.3", "not run", 0),
    ]
    assert "needs a GPU" in found.exercises[2].reason
    assert found.alerts == []
    assert found.exercises[0].tests == {"passed": 4}
    assert set(found.isolation) == {"network", "files", "user", "processes", "limits"}
    assert GradedSubmission.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_a_wrong_solution_loses_its_own_points_and_says_why(
    grader: LabGrader, tmp_path: Path
) -> None:
    """Expected, found and the reason it matters; never the solution."""
    wrong = FILES[MODULE].replace("/ len(values)", "/ (len(values) - 1)")
    found = graded(grader, tmp_path / "wrong", arithmetic=wrong)
    assert [each.score for each in found.exercises] == [0, 3, 0]
    first = found.exercises[0]
    assert first.reason.startswith("it is the sum over the number (3): ")
    assert "Why it matters: A mean is what each would have if all had the same." in first.feedback
    assert "values.sum() / len(values)" not in first.feedback
    assert first.tests["failed"] >= 3


def test_nothing_handed_in_earns_nothing_and_runs_nothing(
    grader: LabGrader, tmp_path: Path
) -> None:
    """Our own solution must not be graded in the place of one that is missing."""
    (tmp_path / "empty").mkdir()
    found = grader.grade(Submission("empty", tmp_path / "empty"))
    assert found.score == 0
    assert found.exercises[0].reason == f"{LAB}/arithmetic.py: not handed in"
    assert found.isolation == {}


def test_a_syntax_error_costs_its_module_alone(grader: LabGrader, tmp_path: Path) -> None:
    """The line is named; the other module is graded."""
    found = graded(grader, tmp_path / "half", arithmetic="def mean(values):\n    return (")
    assert [each.score for each in found.exercises] == [0, 3, 0]
    assert "arithmetic.py:2" in found.problems[0]
    assert "cannot import your code" in found.exercises[0].reason


def test_the_key_changes_with_files_seed_and_limits(grader: LabGrader, tmp_path: Path) -> None:
    """A grade is kept only for the very files, tests, seed and limits it was made with."""
    same = write_work(tmp_path / "one")
    other = write_work(tmp_path / "two", ranking="# nothing")
    keys = [grader.key(grader.take(Submission(path.name, path))) for path in (same, same, other)]
    assert keys[0] == keys[1] != keys[2]
    seed, grader.secret_seed = grader.secret_seed, 6
    try:
        assert grader.key(grader.take(Submission("one", same))) != keys[0]
    finally:
        grader.secret_seed = seed


def test_the_manifest_is_kept_and_read_again(grader: LabGrader, root: Path) -> None:
    """The reference runs once for a lab and a seed, not once a submission."""
    assert grader.cache is not None
    (path,) = grader.cache.glob("manifest-*.json")
    kept = manifest.load(path, grader.digest, 5)
    assert kept == grader.manifest
    assert [len(nodes) for nodes in grader.manifest.tests.values()] == [4, 2, 1]
    assert manifest.load(path, grader.digest, 6) is None
    assert manifest.load(path, "another", 5) is None
    path.with_name("damaged.json").write_text("{")
    assert manifest.load(path.with_name("damaged.json"), grader.digest, 5) is None


@pytest.mark.parametrize("seed", [-1, 1 << 31])
def test_a_secret_seed_out_of_range_is_bad_input(root: Path, seed: int) -> None:
    with pytest.raises(InputError, match="secret seed"):
        LabGrader(root, LAB, secret_seed=seed)


# The verdict, from what a run reported.

NODES = ["tests/lab9_tiny/test_x.py::test_a", "tests/lab9_tiny/test_x.py::test_b[1]"]
PASSES = {"outcome": "passed", "reason": "", "phases": ["setup", "call", "teardown"]}


def ran(**changes: object) -> Ran:
    whole = Ran(results={node: dict(PASSES) for node in NODES}, collected=NODES, complete=True)
    return replace(whole, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (ran(), "passed"),
        (ran(results={NODES[0]: PASSES}), "failed"),
        (ran(results={NODES[0]: PASSES, NODES[1]: PASSES | {"phases": ["setup"]}}), "failed"),
        (ran(results={NODES[0]: PASSES, NODES[1]: {"outcome": "not run"}}), "failed"),
        (ran(results={NODES[0]: PASSES, NODES[1]: {"outcome": "anything"}}), "failed"),
        (ran(results={}, complete=False, ended="it took longer than 2 s"), "failed"),
        (ran(tampering=["changed numpy.allclose"]), "failed"),
    ],
    ids=["whole", "missing", "without a call", "skipped", "unknown", "ended", "touched"],
)
def test_only_a_whole_and_untouched_run_earns_points(
    entries: list[Entry], root: Path, found: Ran, status: str
) -> None:
    """Missing, skipped, cut short or touched: each alone keeps the points back."""
    assert feedback.judge(entries[0], NODES, {}, found, root).status == status


def test_a_skip_is_not_run_only_where_the_reference_was_skipped(
    entries: list[Entry], root: Path
) -> None:
    """A submission cannot declare its own test impossible."""
    skipped = ran(results={NODES[0]: PASSES, NODES[1]: {"outcome": "not run"}})
    allowed = feedback.judge(entries[0], NODES, {NODES[1]: "needs a GPU"}, skipped, root)
    assert (allowed.status, allowed.score, allowed.reason) == ("not run", 0, "needs a GPU")


def test_a_run_without_its_end_marker_earns_nothing(entries: list[Entry], root: Path) -> None:
    """All tests passed, and then the process ended itself: what it would have said is missing."""
    cut = ran(complete=False, ended="its process ended by itself with status 0")
    judged = feedback.judge(entries[0], NODES, {}, cut, root)
    assert (judged.status, judged.score) == ("failed", 0)


def test_every_module_that_is_protected_exists() -> None:
    """A renamed module of pytest or numpy would go unwatched in silence."""
    optional = {"torch", "pandas", "scipy"}
    for name in trusted_integrity.PROTECTED:
        if name.partition(".")[0] not in optional:
            assert importlib.util.find_spec(name) is not None, name


def test_known_answers_are_new_in_each_run(tmp_path: Path) -> None:
    """Names, numbers and outcomes are drawn anew, or a submission could learn them."""
    first, second = write_canaries(tmp_path, ".canaries", torch=False)
    assert not {each.node for each in first} & {each.node for each in second}
    assert {each.passes for each in [*first, *second]} == {True, False}


# What an instructor should read.


def test_a_source_that_reaches_for_the_grader_is_pointed_out() -> None:
    """What the reference uses too is no sign."""
    source = b"""import gc, numpy as np
import subprocess
np.testing.assert_allclose = None
x = np.__dict__
"""
    found = signs(source, "import subprocess\n")
    assert found == [
        "line 1 imports gc",
        "line 3 assigns to np.testing.assert_allclose",
        "line 4 uses .__dict__",
    ]
    assert signs(source, source.decode()) == []
    assert signs(b"def (", "") == signs(b"\xff", "") == []


# Errors carried forward.


def test_a_module_reaches_what_it_imports(tmp_path: Path) -> None:
    """Directly, through another module, and through its tests."""
    root = write_repository(tmp_path)
    (root / f"labs/{LAB}/between.py").write_text(f"from labs.{LAB} import ranking\n")
    file = root / MODULE
    file.write_text(f"import labs.{LAB}.between\n" + file.read_text())
    entry = discover(root)[0]
    assert reached_modules(root, entry, []) == {"arithmetic", "between", "ranking"}


def test_another_exercise_is_replaced_inside_the_students_own_file(entries: list[Entry]) -> None:
    """The reference takes the place of the failed definition, and of nothing else."""
    mine = "def mean(values):\n    return 0\n\n\ndef own(values):\n    return 1\n"
    name = f"{LAB}/arithmetic.py"
    text = carried.with_reference({name: mine.encode()}, entries[:1])[name].decode()
    assert "def own" in text
    assert "values.sum()" in text
    assert "return 0\n" not in text
    for broken in (b"def mean(", b"\xff"):
        text = carried.with_reference({name: broken}, entries[:1])[name].decode()
        assert "values.sum()" in text
