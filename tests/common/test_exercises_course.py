"""The course command and the pytest plugin, on a small repository of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from common.exercises.cli import main
from tests.common.learner_tree import ROOT, write_tree

SUMS = '''
from common.exercises import exercise


@exercise("5.2", points=3, title="Double", hint="Add it to itself.")
def double(x: int) -> int:
    """Twice x."""
    return x + x


@exercise("5.10", points=4, title="Triple", hint="Once more.")
def triple(x: int) -> int:
    return 3 * x
'''
WORDS = """
from common.exercises import exercise


@exercise("5.3", points=2, title="Shout", hint="str has a method.")
def shout(word):
    return word.upper()
"""
TEST_SUMS = '''
import pytest
from labs.lab5_tiny.sums import double, triple


@pytest.mark.exercise("5.10")
@pytest.mark.parametrize("x", [1, 2])
def test_three_times(x):
    """Three is more than two."""
    assert triple(x) == 3 * x


@pytest.mark.exercise("5.10")
def test_nothing_stays_nothing():
    assert triple(0) == 0


@pytest.mark.exercise("5.2")
def test_two_is_four():
    """A model that cannot double
    cannot train."""
    print("looking at", double(2))
    assert double(2) == 4, f"double(2) gives {double(2)}, expected 4"


@pytest.mark.exercise("5.2")
def test_the_sign_stays():
    assert double(-2) == -4


def test_unmarked():
    assert True
'''
TEST_WORDS = """
import pytest
from labs.lab5_tiny.words import shout


@pytest.mark.exercise("5.3")
def test_it_is_loud():
    assert shout("a") == "A"
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one lab of three exercises in two modules."""
    files = {
        "labs/lab5_tiny/__init__.py": "",
        "labs/lab5_tiny/sums.py": SUMS,
        "labs/lab5_tiny/words.py": WORDS,
        "labs/lab6_empty/__init__.py": "",
        "tests/lab5_tiny/test_sums.py": TEST_SUMS,
        "tests/lab5_tiny/test_words.py": TEST_WORDS,
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return write_tree(tmp_path, files, monkeypatch)


def solve(tree: Path, *modules: str) -> None:
    """Put our solutions into the learner's folder."""
    for module in modules or ("sums", "words"):
        file = tree / "work" / "lab5_tiny" / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / "labs" / "lab5_tiny" / f"{module}.py", file)


def edit(tree: Path, module: str, old: str, new: str) -> None:
    file = tree / "work" / "lab5_tiny" / f"{module}.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def pytest_in(tree: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, cwd=tree, env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )


def graded(tree: Path, *arguments: str, **env: str) -> dict[str, dict]:
    """Exercises by id, of a run on the learner's folder."""
    report = tree / "report.json"
    env = {"LABS_WORK": "work", **env}
    pytest_in(tree, "tests", "--exercise-report", str(report), *arguments, **env)
    return {each["id"]: each for each in json.loads(report.read_text())["exercises"]}


# course


def test_start_writes_stubs_and_never_overwrites(tree: Path, capsys) -> None:
    assert main(["start", "lab5"], tree) == 0
    file = tree / "work" / "lab5_tiny" / "sums.py"
    assert 'raise NotImplementedError("exercise 5.2: Double")' in file.read_text()
    assert (tree / "work" / "lab5_tiny" / "words.py").is_file()
    file.write_text("mine = 1\n")
    assert main(["start", "5"], tree) == 0
    assert file.read_text() == "mine = 1\n"
    assert f"kept  {file} (it exists, nothing was changed)" in capsys.readouterr().out


def test_check_explains_the_first_failure(tree: Path, capsys) -> None:
    solve(tree)
    edit(tree, "sums", "return x + x", "return x")
    assert main(["check", "lab5"], tree) == 1
    out = capsys.readouterr().out
    for line in (
        "failed     5.2  Double",
        "not run    5.3  Shout (5.2 comes first)",
        "Exercise 5.2: Double",
        "Test       two is four",
        "           tests/lab5_tiny/test_sums.py:19",
        "Found      double(2) gives 2, expected 4",
        "Compared   2 == 4",
        "Why        A model that cannot double cannot train.",
        "Printed    looking at 2",
        f"Your code  {tree}/work/lab5_tiny/sums.py:6 (double)",
        "Hint       course hint 5.2",
    ):
        assert line in out, out
    assert out.index("5.2  Double") < out.index("5.3  Shout") < out.index("5.10  Triple")


def test_check_of_a_stub_says_that_it_is_not_written(tree: Path, capsys) -> None:
    main(["start", "lab5"], tree)
    assert main(["check", "lab5_tiny"], tree) == 1
    out = capsys.readouterr().out
    assert "Not done   exercise 5.2: Double is still the stub" in out


def test_check_of_solved_code_speaks_of_public_tests(tree: Path, capsys) -> None:
    solve(tree)
    assert main(["check", "lab5"], tree) == 0
    out = capsys.readouterr().out
    assert "all public tests passed: 3 exercise(s), 9 points" in out
    assert "correct" not in out
    assert main(["check", "lab5", "5.10"], tree) == 0
    assert "all public tests passed: 1 exercise(s), 4 points" in capsys.readouterr().out


def test_check_without_a_file_names_the_fix(tree: Path, capsys) -> None:
    for options in ([], ["--watch"]):
        assert main(["check", "lab5", *options], tree) == 2
        assert "begin with `course start lab5`" in capsys.readouterr().err
    solve(tree, "sums")
    assert main(["check", "lab5", "5.3"], tree) == 2
    assert main(["check", "lab5"], tree) == 1
    assert "not run    5.3  Shout (there is no " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["check", "lab7"], "'lab7' is no lab; choose lab5_tiny, lab6_empty"),
        (["check", "lab5", "5.4"], "'5.4' is no exercise; choose 5.2, 5.3, 5.10"),
        (["start", "lab5", "--reset", "6.1"], "'6.1' is no exercise; choose 5.2, 5.3, 5.10"),
        (["start", "lab6"], "lab6_empty has no exercises"),
        (["hint", "9.9"], "'9.9' is no exercise; choose 5.2, 5.3, 5.10"),
    ],
)
def test_bad_input_names_what_is_valid(tree: Path, capsys, command, message) -> None:
    assert main(command, tree) == 2
    assert message in capsys.readouterr().err


def test_hint_and_list(tree: Path, capsys) -> None:
    assert main(["hint", "5.2"], tree) == 0
    assert "Add it to itself." in capsys.readouterr().out
    assert main(["list"], tree) == 0
    assert "5.10   4 points  Triple  (sums.py)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ("import pytest; pytest.skip('too hard')", "two is four: skipped: too hard"),
        ("import pytest; pytest.xfail('cannot')", "two is four: "),
    ],
)
def test_a_skipped_test_is_never_a_pass(tree: Path, capsys, new: str, says: str) -> None:
    solve(tree)
    edit(tree, "sums", "return x + x", new)
    assert main(["check", "lab5"], tree) == 1
    out = capsys.readouterr().out
    assert f"not run    5.2  Double ({says}" in out
    assert "2 of 3 passed (6 points), the others did not run" in out


@pytest.mark.parametrize("end", ["import os; os._exit(0)", "raise SystemExit(0)"])
def test_code_that_ends_the_tests_passes_nothing(tree: Path, capsys, end: str) -> None:
    solve(tree)
    edit(tree, "sums", "\n\n@exercise", f"\n{end}\n\n@exercise")
    assert main(["check", "lab5"], tree) == 1
    out = capsys.readouterr().out
    assert "not run" in out
    assert "passed  " not in out


def test_a_syntax_error_is_shown_with_its_line(tree: Path, capsys) -> None:
    solve(tree)
    edit(tree, "words", "def shout(word):", "def shout(word:")
    assert main(["check", "lab5"], tree) == 1
    out = capsys.readouterr().out
    assert "passed     5.2  Double" in out
    assert "not run   5.10" not in out.partition("Exercise")[0].partition("5.3")[0]
    assert f"{tree}/work/lab5_tiny/words.py:6: '(' was never closed" in out
    assert "def shout(word:" in out


def test_a_file_that_cannot_be_read_is_bad_input(tree: Path, capsys) -> None:
    solve(tree)
    (tree / "work" / "lab5_tiny" / "words.py").write_bytes(b"x = '\xe9'\n")
    assert main(["check", "lab5"], tree) == 2
    assert "words.py is not UTF-8 text" in capsys.readouterr().err


def test_reset_gives_one_function_back(tree: Path, capsys) -> None:
    solve(tree)
    edit(tree, "sums", "return 3 * x", "return x + x + x  # mine")
    before = (tree / "work" / "lab5_tiny" / "sums.py").read_text()
    assert main(["start", "lab5", "--reset", "5.2"], tree) == 0
    after = (tree / "work" / "lab5_tiny" / "sums.py").read_text()
    stub = 'raise NotImplementedError("exercise 5.2: Double")'
    assert after == before.replace("return x + x\n", f"{stub}\n", 1)
    backup = tree / "work" / "lab5_tiny" / "sums.py.bak"
    assert backup.read_text() == before
    assert main(["start", "lab5", "--reset", "5.10"], tree) == 0
    assert backup.read_text() == before
    assert backup.with_suffix(".bak2").read_text() == after
    edit(tree, "sums", "def double(x: int)", "def renamed(x: int)")
    assert main(["start", "lab5", "--reset", "5.2"], tree) == 0
    edit(tree, "sums", "def renamed(", "def renamed((")
    assert main(["start", "lab5", "--reset", "5.2"], tree) == 2
    assert "sums.py:6: " in capsys.readouterr().err


def test_progress_knows_what_changed_since_it_passed(tree: Path, capsys) -> None:
    solve(tree)
    main(["check", "lab5"], tree)
    edit(tree, "sums", "return x + x", "return 2 * x")
    edit(tree, "words", "from", "# a comment elsewhere\nfrom")
    results = tree / "runs" / "lab5_tiny" / "latest" / "results.json"
    results.parent.mkdir(parents=True)
    row = {"claim": "p99 < 10 ms", "measured": 2.5, "passed": True, "reason": ""}
    unmeasured = {"claim": "10M", "measured": None, "passed": None, "reason": "too few"}
    results.write_text(
        json.dumps({"lab": "lab5_tiny", "mine": True, "deliverables": [row, unmeasured]})
    )
    capsys.readouterr()
    assert main(["progress"], tree) == 0
    out = capsys.readouterr().out
    lines = {line.split("│")[1].strip(): line for line in out.splitlines() if "│" in line}
    assert "2 of 3" in lines["lab5_tiny"]
    assert "6 of 9" in lines["lab5_tiny"]
    assert "changed since it passed" in lines["5.2"]
    assert "passed" in lines["5.3"]
    assert "your code" in out
    assert "2.5" in out
    assert "too few" in out
    assert main(["progress", "--runs", str(tree / "nowhere")], tree) == 2, "not: nothing measured"
    assert "there is no such folder" in capsys.readouterr().err
    (tree / "work" / ".progress.json").write_text('{"exercises"')
    assert main(["progress"], tree) == 2
    assert main(["check", "lab5"], tree) == 2
    assert "delete it and check again" in capsys.readouterr().err


def test_watch_checks_again_on_save_and_ends_with_ctrl_c(tree: Path) -> None:
    solve(tree)
    code = "import sys; from pathlib import Path; from common.exercises.cli import main; "
    code += f"sys.exit(main(['check', 'lab5', '--watch'], Path({str(tree)!r})))"
    log = tree / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=stream, stderr=stream)

    def shows(text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

    try:
        shows("watching for the next save")
        edit(tree, "sums", "return x + x", "return x")
        shows("Found      double(2)")
        words = tree / "work" / "lab5_tiny" / "words.py"
        words.write_bytes(b"x = '\xe9'\n")
        shows("words.py is not UTF-8 text")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
    assert log.read_text().endswith("stopped watching\n")
    assert "Traceback" not in log.read_text()


def test_help_loads_nothing_heavy() -> None:
    """The answer to --help comes at once: no torch, no libcst, no rich."""
    code = "import sys; from common.exercises import cli\ntry: cli.main(['--help'])\n"
    code += (
        "except SystemExit: print(sorted({'torch', 'libcst', 'rich', 'numpy'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1] == "[]"


def test_course_finds_the_repository_from_any_folder(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "common.exercises.cli", "list"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "lab" in answer.stdout


# the pytest plugin


def test_points_need_every_test_of_the_exercise(tree: Path) -> None:
    solve(tree)
    edit(tree, "sums", "return 3 * x", "return 3")
    answer = pytest_in(tree, "tests/lab5_tiny", LABS_WORK="work")
    assert "   5.2    3/3   passed   Double" in answer.stdout, answer.stdout
    assert "  5.10    0/4   failed   Triple (three times (2): " in answer.stdout
    assert " total    5/9" in answer.stdout
    assert answer.stdout.index("5.2  ") < answer.stdout.index("5.3  ")


def test_workers_of_xdist_report_the_same_points(tree: Path) -> None:
    solve(tree)
    edit(tree, "sums", "return 3 * x", "return 3")
    alone, spread = graded(tree), graded(tree, "-n", "2")
    assert {key: each["score"] for key, each in spread.items()} == {"5.2": 3, "5.3": 2, "5.10": 0}
    for key, each in alone.items():
        assert spread[key]["outcome"] == each["outcome"]
        assert spread[key]["reason"] == each["reason"]
        assert len(spread[key]["tests"]) == len(each["tests"])


def test_gradescope_gets_its_fields(tree: Path) -> None:
    solve(tree, "sums")
    edit(tree, "sums", "return x + x", "return x")
    pytest_in(tree, "tests/lab5_tiny", "--gradescope", "out/results.json", LABS_WORK="work")
    written = json.loads((tree / "out" / "results.json").read_text())
    assert written["score"] == 4
    assert [test["number"] for test in written["tests"]] == ["5.2", "5.3", "5.10"]
    double, shout, triple = written["tests"]
    schema = json.loads((ROOT / "tests/common/gradescope.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(written, schema)
    assert (double["name"], double["score"], double["max_score"]) == ("Double", 0, 3)
    assert double["status"] == "failed"
    assert "double(2) gives 2, expected 4" in double["output"]
    assert shout["output"].startswith("not run: there is no ")
    assert (triple["status"], triple["score"]) == ("passed", 4)


def test_what_did_not_run_earns_nothing(tree: Path) -> None:
    solve(tree)
    some = graded(tree, "-k", "not sign")
    assert (some["5.2"]["outcome"], some["5.2"]["score"]) == ("not run", 0)
    assert some["5.2"]["reason"].startswith("the sign stays: the test was not collected")
    assert some["5.3"]["outcome"] == "passed"
    test = tree / "tests" / "lab5_tiny" / "test_words.py"
    test.write_text(TEST_WORDS.replace("def test", "@pytest.mark.xfail\ndef test"))
    assert graded(tree)["5.3"]["outcome"] == "not run"
    test.write_text("import pytest\npytest.skip('later', allow_module_level=True)\n" + TEST_WORDS)
    assert "skipped: later" in graded(tree)["5.3"]["reason"]
    test.unlink()
    assert graded(tree)["5.3"]["reason"] == "it has no test"


def test_our_own_code_never_earns_a_learners_points(tree: Path) -> None:
    solve(tree)
    code = "import os\ndef pytest_collection():\n    del os.environ['LABS_WORK']\n"
    (tree / "tests" / "conftest.py").write_text(code)
    found = graded(tree)
    assert {each["score"] for each in found.values()} == {0}
    assert found["5.3"]["reason"].endswith("labs/lab5_tiny/words.py, not your file")


def test_one_exercise_is_selected(tree: Path) -> None:
    solve(tree)
    found = graded(tree, "--exercise", "5.10")
    assert list(found) == ["5.10"]
    assert len(found["5.10"]["tests"]) == 3
    answer = pytest_in(tree, "--exercise", "5.11")
    assert answer.returncode == 4
    assert "'5.11' is no exercise; choose 5.2, 5.3, 5.10" in answer.stderr


@pytest.mark.parametrize("spread", [[], ["-n", "1"]])
def test_a_test_of_an_unknown_exercise_is_an_error(tree: Path, spread: list[str]) -> None:
    test = tree / "tests" / "lab5_tiny" / "test_words.py"
    test.write_text(TEST_WORDS.replace("5.3", "5.4"))
    answer = pytest_in(tree, "tests", *spread)
    assert answer.returncode != 0
    assert "'5.4' is no exercise" in answer.stdout + answer.stderr


def test_a_folder_that_is_not_there_is_an_error_not_a_full_score(tree: Path) -> None:
    answer = pytest_in(tree, "tests", LABS_WORK="wrok")
    assert answer.returncode == 4
    assert "LABS_WORK=wrok: there is no folder" in answer.stderr
    answer = pytest_in(tree, "tests", "--gradescope", "results.json")
    assert answer.returncode == 4
    assert "set LABS_WORK" in answer.stderr


def test_without_points_the_plugin_only_orders(tree: Path) -> None:
    answer = pytest_in(tree, "tests", "-v")
    assert answer.returncode == 0
    assert "points for" not in answer.stdout
    lines = [line for line in answer.stdout.splitlines() if "::" in line]
    ran = [line.partition("::")[2].split()[0] for line in lines if "unmarked" not in line]
    assert ran == [
        "test_two_is_four",
        "test_the_sign_stays",
        "test_it_is_loud",
        "test_three_times[1]",
        "test_three_times[2]",
        "test_nothing_stays_nothing",
    ]


@pytest.mark.parametrize("mark", ["gpu", "multigpu"])
def test_a_gpu_test_skips_with_a_reason_or_fails_on_a_gpu_runner(tree: Path, mark: str) -> None:
    test = tree / "tests" / "lab5_tiny" / "test_gpu.py"
    test.write_text(f"import pytest\n@pytest.mark.{mark}\ndef test_cuda(): ...\n")
    skipped = pytest_in(tree, str(test), "-rs")
    assert skipped.returncode == 0
    count = 2 if mark == "multigpu" else 1
    assert f"needs {count} NVIDIA GPU(s), this machine has 0" in skipped.stdout
    failed = pytest_in(tree, str(test), LABS_REQUIRE_GPU="1")
    assert failed.returncode == 1
    assert "LABS_REQUIRE_GPU=1 asks for it" in failed.stdout
