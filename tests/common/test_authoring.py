"""``course verify``: each check holds on a small sound repository, and finds what is broken."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.authoring import commands, curriculum, exercises, figures, links, outcomes, verify
from common.authoring.model import Check
from common.authoring.pages import pages, slug
from common.authoring.shell import Command, Text
from common.authoring.shell import commands as commands_of
from common.exercises.catalog import discover, find_root
from common.exercises.cli import main
from tests.fork_server import forked

ROOT = find_root()
LAB, TESTS = "labs/lab1_tiny", "tests/lab1_tiny"
FILES = {
    "pyproject.toml": "",
    "Makefile": """SCALE ?= standard
lab1:
\t.venv/bin/python -m labs.lab1_tiny --scale $(SCALE) $(ARGS)
help:
\t@echo
""",
    "README.md": """# Tiny

[the lab](labs/lab1_tiny/README.md#exercises), [torch](https://pytorch.org/)
""",
    f"{LAB}/__init__.py": "",
    f"{LAB}/__main__.py": "Claim('L1.sums', 'sums')\nrun.figure('sums', draw(), caption='Sums.')\n"
    "for name, drawn in (('late', a), ('early', b)):\n    run.figure(name, drawn)\n",
    f"{LAB}/sums.py": """
from common.exercises import exercise


@exercise("1.1", points=3, title="Double", hint="Add the number to itself, once.")
def double(x: int) -> int:
    return x + x


@exercise("1.2", points=4, title="Triple", hint="Add the number to its double, once.")
def triple(x: int) -> int:
    return 3 * x
""",
    f"{LAB}/README.md": """# Lab 1

## Exercises

| | what you write | where | points |
|---|---|---|---|
| 1.1 | `double` | `sums.py` | 3 |
| 1.2 | `triple` | `sums.py` | 4 |

```
make lab1 SCALE=full ARGS="--seed 1"     # the same as `python -m`
course check lab1 1.1
python -m labs.lab1_tiny --seed 1 | tail -3
```

```
scale standard
seed  1
```
""",
    f"{LAB}/lessons/sums.md": """# Sums

See `figures/sums.png`. Figures in your run's report: `late`, `early`.

## Exercises

1.1 and 1.2; `course hint 1.2` helps.
""",
    f"{LAB}/quiz.toml": "".join(f'[[question]]\nid = "1.q{n}"\n' for n in range(1, 13)),
    f"{TESTS}/test_sums.py": "".join(
        f'@pytest.mark.exercise("1.{n}")\ndef test_{name}_{n}():\n    """Why {name}."""\n'
        for n in (1, 2)
        for name in ("small", "large")
    ),
    "docs/curriculum.toml": """
[curriculum.lab1_tiny]
sums = "sums"

[[row]]
lab = "lab1_tiny"
topic = "sums"
teaches = "doubling"
modules = ["sums.py"]
lesson = "lessons/sums.md#sums"
exercises = ["1.1", "1.2"]
tests = ["test_sums.py::test_small_1"]

[[criterion]]
id = "add"
text = "Add"
deliverables = ["L1.sums"]
exercises = ["1.1", "1.2"]
""",
} | {f"{TESTS}/wrong/e1_{n}_{name}.py": f'"""It {name}s."""\n' for n in (1, 2) for name in "ab"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of one lab with two exercises, in which nothing is wrong but its size."""
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return tmp_path


def of_commands(root: Path) -> list[Check]:
    def ask(module: str) -> tuple[int, str]:
        return 0, "usage: --seed INT --scale {smoke,standard,full}"

    return commands.check_commands(root, pages(root), discover(root), ask)


CHECKS: dict[str, Callable[[Path], list[Check]]] = {
    "markers": lambda root: [exercises.find_exercises(root)[1]],
    "tests": lambda root: [exercises.check_tests(root, discover(root))[1]],
    "mentions": lambda root: [exercises.check_mentions(root, discover(root))],
    "quizzes": lambda root: [exercises.check_quizzes(root)],
    "links": lambda root: links.check_links(root, pages(root)),
    "figures": lambda root: [figures.check_figures(root)],
    "commands": of_commands,
    "topics": lambda root: [
        curriculum.check_topics(root, discover(root), curriculum.load(root)),
        curriculum.check_criteria(root, discover(root), curriculum.load(root)),
    ],
}


@pytest.mark.parametrize("name", CHECKS)
def test_nothing_is_wrong_with_a_sound_repository(tree: Path, name: str) -> None:
    """A check that refuses what is right would be switched off."""
    for check in CHECKS[name](tree):
        assert check.problems == [], check.name
        assert check.counted > 0, f"{check.name} looked at nothing"


SUMS, GRADED, MAP = f"{LAB}/sums.py", f"{TESTS}/test_sums.py", curriculum.FILE
FRONT, LESSON = f"{LAB}/README.md", f"{LAB}/lessons/sums.md"
BROKEN = [
    # check, file, what stands there, what is put there, what is said
    ("markers", SUMS, 'hint="Add the number to itself, once."', 'hint=""', "1.1 has no hint"),
    ("markers", SUMS, 'hint="Add the number to itself, once."', 'hint="Add."', "says too little"),
    ("markers", SUMS, '"1.2"', '"1.1"', "give it its own number"),
    ("markers", SUMS, '"1.2"', '"1.3"', "the numbers are not 1, 2, 3"),
    ("markers", SUMS, '@exercise("1.2",', '@other("1.2",', "has 1 exercise"),
    ("tests", GRADED, 'exercise("1.2")\ndef test_l', 'none\ndef test_l', "has 1 test"),
    ("tests", GRADED, '"""Why large."""', "pass", "has no docstring"),
    ("tests", GRADED, '"1.2"', '"1.4"', "grades exercise 1.4"),
    ("tests", f"{TESTS}/wrong/e1_1_a.py", '"""It as."""', "x = 1", "which mistake"),
    ("mentions", FRONT, "| `sums.py` | 4 |", "| `sums.py` | 5 |", "has 4 points; README.md says 5"),
    ("mentions", FRONT, "| 1.2 | `triple` | `sums.py` | 4 |\n", "", "has no row"),
    ("mentions", FRONT, "| 1.2 | `triple` |", "| 1.3 | `triple` |", "does not exist"),
    ("mentions", FRONT, "`double` | `sums.py`", "`double` | `sum.py`", "stands in sums.py"),
    ("mentions", LESSON, "1.1 and 1.2;", "1.2 takes 1.15 s,", "under the exercises of no lesson"),
    ("quizzes", f"{LAB}/quiz.toml", '[[question]]\nid = "1.q12"\n', "", "asks 11 questions"),
    ("links", "README.md", "lab1_tiny/README.md", "lab2/README.md", "there is no such file"),
    ("links", "README.md", "#exercises", "#exercise", "has no heading #exercise"),
    ("links", "README.md", "labs/lab1_tiny/README.md", "../../etc/passwd", "leaves the repository"),
    ("links", "README.md", "https://pytorch.org/", "https:/pytorch.org/", "is no address"),
    ("figures", LESSON, "figures/sums.png", "figures/sum.png", "no run makes the figure sum;"),
    ("figures", LESSON, "`early`", "`soon`", "no run makes the figure soon;"),
    ("commands", FRONT, "make lab1", "make lab7", "No rule to make target"),
    ("commands", FRONT, "SCALE=full", "SIZE=full", "no variable SIZE"),
    ("commands", FRONT, "SCALE=full", "SCALE=huge", "--scale huge: choose full, smoke, standard"),
    ("commands", FRONT, '"--seed 1"', '"--sede 1"', "it has no --sede"),
    ("commands", FRONT, "check lab1 1.1", "check lab1 1.7", "there is no exercise 1.7"),
    ("commands", FRONT, "check lab1 1.1", "chek lab1 1.1", "invalid choice: 'chek'"),
    ("commands", FRONT, "python -m labs.lab1_tiny", "python -m labs.lab1_tony", "no module labs"),
    ("commands", FRONT, "python -m labs.lab1_tiny", "python -m labs.lab1_tiny.sums", "nothing"),
    ("commands", FRONT, "| tail", "| tial", "tial is neither a file nor a program on the list"),
    ("commands", FRONT, "course check", "cuorse check", "cuorse is neither a file nor a program"),
    ("commands", LESSON, "`course hint 1.2`", "`course hint 9.2`", "there is no exercise 9.2"),
    ("topics", MAP, 'sums = "sums"\n', 'sums = "sums"\nall = "all"\n', "neither taught nor graded"),
    ("topics", MAP, '"sums.py"', '"sum.py"', "there is no module sum.py"),
    ("topics", MAP, "sums.md#sums", "sums.md#sum", "has no heading #sum"),
    ("topics", MAP, "lessons/sums.md#sums", "", "must name a page and a heading"),
    ("topics", MAP, "test_small_1", "test_small_7", "test_sums.py has no test_small_7"),
    ("topics", MAP, '["1.1", "1.2"]\nt', '["1.1"]\nt', "belongs to no topic"),
    ("topics", MAP, '["1.1", "1.2"]\nt', '["2.1"]\nt', "is no exercise of"),
    ("topics", MAP, 'topic = "sums"', 'topic = "all"', "is no topic of"),
    ("topics", MAP, "L1.sums", "L1.sum", "no run claims L1.sum"),
    ("topics", MAP, '"Add"\ndeliverables = ["L1.sums"]', '"Add"', "needs deliverables"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "old", "new", "said"), BROKEN)
def test_what_is_broken_is_found(
    tree: Path, name: str, file: str, old: str, new: str, said: str
) -> None:
    """A check that cannot fail checks nothing."""
    text = (tree / file).read_text(encoding="utf-8")
    assert old in text
    (tree / file).write_text(text.replace(old, new), encoding="utf-8")
    problems = [problem.message for check in CHECKS[name](tree) for problem in check.problems]
    assert any(said in message for message in problems), problems


def test_a_row_without_exercise_or_test_is_an_empty_cell(tree: Path) -> None:
    """A topic that nothing grades is only mentioned."""
    text = (tree / MAP).read_text(encoding="utf-8")
    for line in ('exercises = ["1.1", "1.2"]\ntests', 'tests = ["test_sums.py::test_small_1"]\n'):
        text = text.replace(line, "tests" if line.endswith("tests") else "", 1)
    (tree / MAP).write_text(text, encoding="utf-8")
    found = curriculum.check_topics(tree, discover(tree), curriculum.load(tree)).problems
    assert "names neither exercise nor test" in [problem.message for problem in found]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("teaches", "teach", "teach is no field of a row"),
        ('modules = ["sums.py"]', 'modules = "sums.py"', "must be a list of text"),
        ('text = "Add"\n', "", "a criterion has no text"),
        ("[[row]]", "[[line]]", "unknown table line"),
        ("[[row]]", "[[row]", "is no TOML"),
    ],
)
def test_a_map_that_is_not_clear_is_refused(tree: Path, old: str, new: str, said: str) -> None:
    """The assessment reads the map too: a field that is mistyped must not read as absent."""
    text = (tree / MAP).read_text(encoding="utf-8")
    (tree / MAP).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(curriculum.InputError, match=said.replace("[", r"\[")):
        curriculum.load(tree)


def test_a_small_course_is_too_small(tree: Path) -> None:
    """The promised numbers of exercises, tests and wrong solutions are a check like any other."""
    records, _ = exercises.check_tests(tree, discover(tree))
    said = [problem.message for problem in verify.check_size(records).problems]
    assert said[0] == "2 exercises, at least 65 are needed"
    assert len(said) == 3


def test_anchors_are_those_of_github() -> None:
    """A link that works on the site of the repository must not be called broken."""
    assert slug("What `make lab1` does: 1B+ parameters, p99 < 50 ms") == (
        "what-make-lab1-does-1b-parameters-p99--50-ms"
    )


SHELL = """# A

```
$ export A=$(openssl rand -hex 2) && make lab1 \\
    SCALE=full > log.txt
lab1 prints this
```

```
for name in a b; do
  curl -d '{"x":
    1}' $URL | head -1   # two
done
ask() { curl $1; }
ask 3
```

`python -m x.y <file> a|b` and `makeshift`
"""


def test_an_address_that_is_gone_is_found(tree: Path) -> None:
    """``--external`` opens each address once; a page that refuses programs is there."""
    asked: list[str] = []

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response({"/gone": 404, "/members": 403}.get(self.path, 200))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{site.server_port}"
        text = " ".join(f"[x]({at}/{name})" for name in ("here", "here#part", "members", "gone"))
        (tree / "README.md").write_text(f"# A\n\n{text}\n", encoding="utf-8")
        check = links.check_external(tree, pages(tree))
        site.shutdown()
    assert [problem.message for problem in check.problems] == [f"{at}/gone: answers 404"]
    assert sorted(asked) == ["/gone", "/here", "/members"]


def test_commands_are_told_from_what_they_print(tmp_path: Path) -> None:
    """Prompts, continued lines, quotes over lines, pipes, loops and functions are understood."""
    file = tmp_path / "README.md"
    file.write_text(SHELL, encoding="utf-8")
    (page,) = pages(tmp_path)
    found = list(commands_of(page))
    words = [each.words[:2] for each in found if isinstance(each, Command)]
    assert words == [
        ("export", "A=$"), ("make", "lab1"), ("curl", "-d"), ("head", "-1"), ("curl", "$1"),
        ("python", "-m"),
    ]  # fmt: skip
    assert [each.text for each in found if isinstance(each, Text)] == ["lab1 prints this"]
    assert [each.line for each in found][:2] == [4, 4]


def test_what_did_not_run_counts_as_wrong(tree: Path) -> None:
    """A stub, reference or wrong solution without a result must not pass by absence."""
    entries = discover(tree)
    records, _ = exercises.check_tests(tree, entries)
    xml = (
        f'<testsuite><testcase name="{outcomes.STUB}[lab1_tiny]" time="2.5"/>'
        f'<testcase name="{outcomes.WRONG}[1.1-e1_1_a]" time="1.5"/>'
        f'<testcase name="{outcomes.WRONG}[1.1-e1_1_b]" time="1"><failure message="it passes"/>'
        f'</testcase><testcase name="{outcomes.WRONG}[1.2-e1_2_a]"><skipped/></testcase>'
        "</testsuite>"
    )
    ran = outcomes.read_report(xml)
    stubs, references, wrong = outcomes.check_outcomes(tree, ["lab1_tiny"], entries, ran, records)
    assert (stubs.passed, stubs.counted, stubs.seconds) == (True, 2, 2.5)
    assert [problem.message for problem in references.problems] == ["its test did not run"]
    assert [(problem.place, problem.message) for problem in wrong.problems] == [
        ("1.1 e1_1_b", "it passes"),
        ("1.2 e1_2_a", "skipped"),
        ("1.2 e1_2_b", "its test did not run"),
    ]
    assert [record.killed for record in records] == [1, 0]
    assert records[0].seconds == {"e1_1_a": 1.5, "e1_1_b": 1.0}


EVERY = """
import pytest


@pytest.mark.parametrize("lab", ["lab1_tiny"])
def test_every_stub_fails_by_name(lab):
    pass


@pytest.mark.parametrize("lab", ["lab1_tiny"])
def test_every_reference_passes_as_a_learners_file(lab):
    assert lab == "lab2", "1.1 fails"


@pytest.mark.parametrize("name", ["1.1-e1_1_a", "1.1-e1_1_b", "1.2-e1_2_a", "1.2-e1_2_b"])
def test_every_wrong_solution_is_caught(name):
    assert name != "1.2-e1_2_b", "it passes"
"""


@pytest.mark.slow
def test_the_whole_reads_what_the_tests_of_every_exercise_found(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One implementation decides; the command starts it and reports each exercise."""
    (tree / outcomes.FILE).write_text(EVERY, encoding="utf-8")
    monkeypatch.setattr(commands, "ask_program", lambda root, module: (0, "--seed --scale"))
    found = tree / "found.json"
    status = main(["verify", "--lab", "1", "--jobs", "1", "--json", str(found)], root=tree)
    assert status == 1, capsys.readouterr()
    written = json.loads(found.read_text(encoding="utf-8"))
    assert (written["whole"], written["passed"]) == (True, False)
    assert written["totals"]["killed"] == 3
    wrong = {check["name"]: check["problems"] for check in written["checks"] if check["problems"]}
    assert set(wrong) == {"size of the course", "references", "wrong solutions"}
    assert "it passes" in wrong["wrong solutions"][0]["message"]
    assert set(written["exercises"][1]["seconds"]) == {"e1_2_a", "e1_2_b"}
    assert "3 of 4 wrong solutions killed" in capsys.readouterr().out


def test_the_fast_part_writes_what_it_found(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tables show every topic, the JSON every check; the size alone is wrong here."""
    status = main(["verify", "--fast", "--json", str(tree / "found.json")], root=tree)
    shown = capsys.readouterr().out
    assert status == 1
    assert "at least 65 are needed" in shown
    assert "small 1" in shown
    written = json.loads((tree / "found.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in written["checks"] if not each["passed"]] == [
        "size of the course"
    ]
    assert written["totals"] == {
        "exercises": 2,
        "points": 7,
        "tests": 4,
        "wrong": 4,
        "killed": None,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--jobs", "0"], "--jobs 0 must be at least 1"),
        (["--fast", "--lab", "1"], "leave one out"),
        (["--fast", "--json", "nowhere/x.json"], "there is no folder"),
        (["--lab", "9"], "'9' is no lab"),
        (["--lab", "1"], "`course verify --fast` needs no tests"),
    ],
)
def test_bad_arguments_say_what_to_do(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    """Status 2 and one line, before anything is run."""
    monkeypatch.chdir(tree)
    monkeypatch.setattr(commands, "ask_program", lambda root, module: (0, "--seed --scale"))
    assert main(["verify", *arguments], root=tree) == 2
    assert said in capsys.readouterr().err


def test_the_course_holds_every_check_that_runs_nothing() -> None:
    """The fast part over this repository; the rest is below, and in test_every_exercise.py."""
    verified, _ = verify.verify_fast(ROOT, curriculum.load(ROOT))
    assert [(each.name, each.problems) for each in verified.checks if not each.passed] == []


@pytest.mark.slow
def test_every_program_has_the_options_that_the_pages_give_it(tmp_path: Path, server: Path) -> None:
    """An option that is renamed takes the pages with it."""

    def ask(module: str) -> tuple[int, str]:
        log = tmp_path / module
        environment = {"PATH": str(Path(sys.executable).parent), **commands.WIDE}
        with forked(["-m", module, "--help"], server=server, log=log, env=environment) as child:
            status = child.wait()
        return status, log.read_text(encoding="utf-8")

    found = commands.check_commands(ROOT, pages(ROOT), discover(ROOT), ask)
    assert [problem for check in found for problem in check.problems] == []
