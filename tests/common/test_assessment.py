"""The final assessment: formulas, drawn questions, answers kept, evidence and verdicts."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from common.assessment import bank, evidence, report, session, state
from common.assessment.bank import Asked, Question
from common.assessment.formula import evaluate, fill, number, parse_number
from common.assessment.state import State
from common.errors import InputError
from common.exercises import catalog, progress
from common.exercises.cli import main

ROOT = Path(__file__).resolve().parents[2]
LAB = "lab5_tiny"

QUIZ = """
criterion = "sums"

[[question]]
id = "5.q1"
prompt = "Which is <two>?"
options = ["one", "two", "three", "four"]
answer = 1
why = "Two is the `successor` of one."

[[question]]
id = "5.q2"
kind = "numeric"
prompt = "What is {a} times {b}?"
parameters = { a = [2, 3, 5], b = { low = 10, high = 20, step = 2 } }
answer = "a * b"
unit = "GB"
tolerance = 0.02
why = "{a} times {b} is {answer}."

[[question]]
id = "5.q3"
criterion = "words"
prompt = "Which is loud?"
options = ["a", "B", "c", "d"]
answer = 1
why = "Capitals are loud."
"""
SUMS = """
from common.exercises import exercise

@exercise("5.1", points=3, title="Double", hint="Add it to itself.")
def double(x):
    return x + x
"""
TEST_SUMS = '''
import pytest
from labs.lab5_tiny.sums import double

@pytest.mark.exercise("5.1")
def test_two_is_four():
    """A model that cannot double cannot train."""
    assert double(2) == 4
'''
CURRICULUM = """
[[criterion]]
id = "sums"
text = "Add <b>numbers</b>"
deliverables = ["L5.speed", "L9.elsewhere"]
exercises = ["5.1", "9.1"]

[[criterion]]
id = "words"
text = "Shout"
deliverables = ["L5.loud"]
exercises = ["5.1"]

[[criterion]]
id = "elsewhere"
text = "Of a lab that is not here"
deliverables = ["L9.elsewhere"]
exercises = ["9.1"]
"""
PROJECT = """
[tool.pytest.ini_options]
pythonpath = ["."]
addopts = "--import-mode=importlib -p common.exercises.pytest_plugin --strict-markers"
markers = ["exercise(id): x", "gpu: x", "multigpu: x", "slow: x"]
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one lab of one exercise and three questions, solved in ``work/``."""
    files = {
        "pyproject.toml": PROJECT,
        "docs/curriculum.toml": CURRICULUM,
        f"labs/{LAB}/__init__.py": "",
        f"labs/{LAB}/sums.py": SUMS,
        f"labs/{LAB}/quiz.toml": QUIZ,
        f"tests/{LAB}/test_sums.py": TEST_SUMS,
        f"work/{LAB}/sums.py": SUMS,
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "labs" / "__init__.py", tmp_path / "labs" / "__init__.py")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("LABS_WORK", "LABS_REQUIRE_GPU", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def passed(tree: Path) -> None:
    """Record that the exercise passed as it stands."""
    entries = catalog.discover(tree)
    progress.record(tree / "work", {"5.1": "passed"}, progress.fingerprints(entries, tree / "work"))


def ran(tree: Path, *, mine: bool = True, **rows: tuple[float | None, bool | None]) -> None:
    """A run of the lab with these deliverables: measured, passed; the target is below 10."""
    folder = tree / "runs" / LAB / "20261129T100000Z-standard"
    folder.mkdir(parents=True, exist_ok=True)
    latest = folder.parent / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)
    deliverables = [
        {
            "id": f"L5.{name}", "claim": f"it is {name}", "metric": name, "op": "<", "target": 10,
            "measured": measured, "passed": outcome, "reason": "" if outcome is not None else "GPU",
        }
        for name, (measured, outcome) in rows.items()
    ]  # fmt: skip
    results = {"lab": LAB, "commit": "abc", "mine": mine, "deliverables": deliverables}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


def assess(tree: Path, *arguments: str) -> dict:
    """``course assess`` on the tree, without a terminal; its JSON."""
    file = tree / "out.json"
    file.unlink(missing_ok=True)
    (tree / "runs").mkdir(exist_ok=True)
    assert (
        main(["assess", "--json", str(file), "--runs", str(tree / "runs"), *arguments], tree) == 0
    )
    return json.loads(file.read_text(encoding="utf-8"))


def sheet(tree: Path, seed: int = 3, **changed: object) -> Path:
    """An answer sheet with every answer right but those in ``changed``, by id without a dot."""
    answers: dict[str, object] = {}
    for asked in bank.paper(tree, 12, seed):
        answers[asked.id] = int(asked.answer) + 1 if asked.options else asked.answer
    answers |= {key.replace("_", "."): given for key, given in changed.items()}
    file = tree / "answers.json"
    file.write_text(json.dumps({"seed": seed, "questions": 12, "answers": answers}))
    return file


def choice(options: int = 4) -> Question:
    return Question("5.q1", LAB, "sums", "Which?", "Because.", 2, tuple("abcd"[:options]))


# formulas


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("16 * P / N", 2.0),
        ("-P ** 2 + N", -41.0),
        ("ceil(log2(N)) + max(P, 3, 1) - round(2.5)", 8.0),
        ("N // 3 % 2 + sqrt(abs(-16))", 4.0 + 2 // 3 + 0.0),
        ("1e3 + .5", 1000.5),
    ],
)
def test_arithmetic_is_computed(formula: str, expected: float) -> None:
    """Operators bind as in Python; the functions are those of the field."""
    values = {"P": 7.0, "N": 56.0} if "/ N" in formula else {"P": 7.0, "N": 8.0}
    assert evaluate(formula, values) == expected


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os').system('true')", "().__class__", "[1, 2][0]", "'a' * 3", "True", "x",
        "1 if 1 else 2", "lambda: 1", "(y := 1)", "1 < 2", "P()", "max(*[1])", "log(x=1)", "P.real",
        "9 ** 9 ** 9 ** 9", "1 / 0", "sqrt(-1)", "1e400", "(-8) ** 0.5", "1j", "", "2 +", "1; 2",
        "(" * 200, "1 + " * 200 + "1", "max()",
    ],
)  # fmt: skip
def test_nothing_but_arithmetic_is_computed(formula: str) -> None:
    """A formula stands in a file, an answer is typed by anybody: neither may run code."""
    with pytest.raises(InputError):
        evaluate(formula, {"P": 7.0})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12.5", 12.5), ("1,024", 1024), ("-3e9", -3e9), (" 16*7e9/8 ", 14e9), ("2 * 1,000", 2000)],
)
def test_a_number_may_be_typed_as_people_type_it(text: str, expected: float) -> None:
    """Nobody should lose an answer to a comma between thousands."""
    assert parse_number(text) == expected


def test_a_decimal_comma_is_refused_not_misread() -> None:
    """1,5 read as 15 would be a wrong answer that the learner never gave."""
    with pytest.raises(InputError):
        parse_number("1,5")


def test_texts_are_filled_in() -> None:
    """The explanation shows the learner's own numbers."""
    text = fill("{N} ranks, {16 * P / N:.2f} GB, {P * 1e6} and {{braces}}", {"P": 7, "N": 64})
    assert text == "64 ranks, 1.75 GB, 7,000,000 and {braces}"
    assert number(0.0123456) == "0.01235"


# the bank


def test_a_question_is_drawn_from_seed_and_id_alone(tree: Path) -> None:
    """A grader draws the same paper again; neighbours do not have the same numbers."""
    questions = bank.load(tree)
    papers = [[bank.draw(each, seed) for each in questions] for seed in (1, 1, *range(2, 12))]
    assert papers[0] == papers[1]
    assert len({paper[0].options for paper in papers}) > 3
    assert len({paper[1].prompt for paper in papers}) > 3
    for paper in papers:
        assert sorted(paper[0].options) == ["four", "one", "three", "two"]
        assert paper[0].options[int(paper[0].answer)] == "two"
        assert paper[1].why.endswith(f"is {number(paper[1].answer)}.")


def test_the_right_option_stands_anywhere() -> None:
    """Each question has an order of its own, so the number of one tells nothing of the next."""
    drawn = [bank.draw(each, 0) for each in bank.load(ROOT) if not each.numeric]
    orders = {tuple(map(asked.question.options.index, asked.options)) for asked in drawn}
    assert len(orders) == 24, f"{len(orders)} of the 24 orders"


def test_a_number_is_right_within_its_tolerance(tree: Path) -> None:
    """Rounding is no mistake, a factor is."""
    asked = bank.draw(bank.load(tree)[1], 0)
    assert asked.right(asked.answer * 1.0199)
    assert asked.right(asked.answer * 0.9801)
    assert not asked.right(asked.answer * 1.021)
    assert not asked.right(-asked.answer)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('id = "5.q2"', 'id = "5.q7"', "5.q7 stands in the place of 5.q2"),
        ("answer = 1\nwhy = \"Two", "answer = 4\nwhy = \"Two", "answer = 4 must be the index"),
        ("answer = 1\nwhy = \"Two", "answer = true\nwhy = \"Two", "answer = True must be"),
        ('"three", "four"', '"three"', "needs 4 different options"),
        ('"three", "four"', '"three", "one"', "needs 4 different options"),
        ('kind = "numeric"', 'kind = "essay"', "neither 'choice' nor 'numeric'"),
        ('kind = "numeric"\n', "", "parameters is no field of a choice question"),
        ("tolerance = 0.02", "tolerance = 2", "tolerance = 2 must be a share"),
        ('answer = "a * b"', 'answer = "a * c"', "c is not known here"),
        ('answer = "a * b"', 'answer = "a - a"', "the answer is 0"),
        ("{a} times {b} is", "{a} times {z} is", "z is not known here"),
        ("[2, 3, 5]", '["2"]', "must be a list of numbers"),
        ("step = 2", "step = 0", "{ low, high, step }"),
        ('why = "Capitals are loud."', "", "why must be a text"),
        ('criterion = "sums"', "", "criterion must be a text, not None"),
        ('criterion = "sums"', 'criterion = "sums', "is no TOML"),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_asked_is_named(
    tree: Path, old: str, new: str, message: str
) -> None:
    """An author learns which question is wrong, and why, before a learner meets it."""
    file = tree / "labs" / LAB / "quiz.toml"
    assert old in QUIZ
    file.write_text(QUIZ.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        bank.load(tree)
    assert message in str(error.value)
    assert "quiz.toml" in str(error.value)


def test_a_short_paper_has_numbers_and_every_criterion() -> None:
    """Twelve of fifty questions must still say something about each skill of the lab."""
    questions = bank.load_file(ROOT / "labs" / "lab4_model_serving" / "quiz.toml")
    for seed in range(10):
        chosen = bank.choose(questions, 12, seed)
        assert len(chosen) == len({each.id for each in chosen}) == 12
        assert sum(each.numeric for each in chosen) >= 3
        assert {each.criterion for each in chosen} == {each.criterion for each in questions}
        assert chosen == sorted(chosen, key=questions.index)
    assert bank.choose(questions, 12, 0) != bank.choose(questions, 12, 1)
    assert len(bank.choose(questions, 999, 0)) == len(questions)


# answers


def test_an_answer_to_another_wording_does_not_count(tree: Path) -> None:
    """When an author corrects a question, an old answer to it says nothing."""
    asked = bank.draw(bank.load(tree)[0], 1)
    kept = State(1)
    kept.answer(asked, 2)
    assert kept.given(asked) == 2
    changed = Asked(asked.question, asked.prompt + " Now?", asked.why, 2, asked.options)
    assert kept.given(changed) is None


@pytest.mark.parametrize("given", [0, 5, "five", True, None, 2.5, [], "-1"])
def test_what_is_no_option_is_refused(given: object) -> None:
    """An answer that cannot be meant is an error in the sheet, not a wrong answer."""
    with pytest.raises(InputError, match="no option"):
        state.parse_answer(bank.draw(choice(), 0), given)


def test_options_are_given_by_number_or_text(tree: Path) -> None:
    """The number is the one the learner saw; the text cannot be misunderstood."""
    asked = bank.draw(choice(), 0)
    assert state.parse_answer(asked, " 3 ") == 2
    assert asked.options[int(state.parse_answer(asked, "b"))] == "b"
    numeric = bank.draw(bank.load(tree)[1], 0)
    assert state.parse_answer(numeric, "12.5 GB") == state.parse_answer(numeric, 12.5) == 12.5
    for wrong in (True, None, [1], float("nan"), "many"):
        with pytest.raises(InputError):
            state.parse_answer(numeric, wrong)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "seed": "x"}',
             '{"schema": 1, "seed": 1, "answers": {"5.q1": "x"}}', '{"schema": 1, "more": 1}',
             '{"schema": 1, "seed": 1, "asked": 5}', '{"schema": 1, "seed": 1, "finished": 5}'],
)  # fmt: skip
def test_a_damaged_state_is_an_error_that_says_what_to_do(tree: Path, text: str) -> None:
    """Answers are hours of work: nothing is overwritten silently."""
    (tree / "work" / state.STATE_FILE).write_text(text)
    with pytest.raises(InputError, match="--restart"):
        state.load(tree / "work")
    assert main(["assess", "--report"], tree) == 2
    assert (tree / "work" / state.STATE_FILE).read_text() == text


# asking


class Typed:
    """A person who types these lines; Ctrl-C when there are no more."""

    def __init__(self, *lines: str) -> None:
        self.lines: Iterator[str] = iter(lines)

    def __call__(self, prompt: str) -> str:
        try:
            return next(self.lines)
        except StopIteration:
            raise KeyboardInterrupt from None


def talk(tree: Path, current: State, *lines: str) -> str:
    """Ask the paper of the tree; what was printed."""
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    paper = bank.paper(tree, 12, current.seed)
    save = lambda: state.save(tree / "work", current)  # noqa: E731
    session.ask(paper, current, save, console, Typed(*lines))
    return console.export_text()


def right_key(asked: Asked) -> str:
    return str(int(asked.answer) + 1) if asked.options else repr(asked.answer)


def test_practice_explains_after_each_answer_and_keeps_it(tree: Path) -> None:
    """The first answer stands, since the solution is known after it; Ctrl-C loses nothing."""
    paper = bank.paper(tree, 12, 1)
    wrong = str((int(paper[0].answer) + 1) % 4 + 1)
    shown = talk(tree, State(1), "nine", wrong, "b", "")
    assert "'nine' is no option; give a number from 1 to 4" in shown
    assert "wrong; right is: two" in shown
    assert "Which is <two>?" in shown
    assert "1 of 3 questions answered, everything is saved" in shown
    kept = state.load(tree / "work")
    assert kept is not None
    assert kept.given(paper[0]) == int(wrong) - 1
    resumed = talk(tree, kept, "s", right_key(paper[2]))
    assert "2 of 3" in resumed.splitlines()[1], "it goes on with the first open question"
    assert "right: B" in resumed
    assert "2 of 3 questions answered" in resumed
    last = talk(tree, kept, f"{paper[1].answer * 2} / 2")
    assert f"right: {paper[1].shown(paper[1].answer)}" in last
    assert "3 of 3 questions answered" in talk(tree, kept)


def test_an_exam_tells_nothing_until_it_is_handed_in(tree: Path) -> None:
    """Answers can be changed until then, and stand afterwards."""
    current = State(1, exam=True)
    paper = bank.paper(tree, 12, 1)
    keys = [right_key(asked) for asked in paper]
    wrong = str(int(keys[0]) % 4 + 1)
    shown = talk(tree, current, wrong, "b", keys[0], keys[1], "s", "n")
    assert "right" not in shown
    assert "Two is the" not in shown
    assert "1 of 3 are without an answer" in shown
    rows = evidence.question_states(paper, current)
    assert [each.right for each in rows] == [None, None, None]
    assert report.score(rows) == "2 of 3 answered"
    assert "right" not in talk(tree, current, "q")
    kept = state.load(tree / "work")
    assert kept is not None
    after = talk(tree, kept, keys[2], "y")
    assert after.count("right: ") == 3
    rows = evidence.question_states(paper, kept)
    assert [each.right for each in rows] == [True, True, True]
    assert "3 of 3 questions answered" in talk(tree, kept, wrong), "nothing is asked again"


def test_a_terminal_is_asked_and_ctrl_c_keeps_what_was_answered(tree: Path) -> None:
    """The real program on a real terminal: one answer, Ctrl-C, status 0, state on disk."""
    leader, follower = pty.openpty()
    code = (
        "import sys; from pathlib import Path; from common.exercises.cli import main; "
        f"sys.exit(main(['assess', '--seed', '1'], Path({str(tree)!r})))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=follower, stdout=follower, stderr=follower, cwd=ROOT
    )
    os.close(follower)
    seen = b""

    def until(word: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + 60
        while word not in seen:
            assert time.monotonic() < end, seen
            seen += os.read(leader, 65536)

    try:
        until(b"your answer")
        os.write(leader, b"1\n")
        until(b"2 of 3")
        child.send_signal(signal.SIGINT)
        until(b"everything is saved")
        until(b"a claim, not a grade")
        while child.poll() is None:
            try:
                seen += os.read(leader, 65536)
            except OSError:  # the terminal is closed at the other end
                child.wait(30)
    finally:
        child.kill()
        child.wait()
        os.close(leader)
    assert child.returncode == 0, seen
    kept = state.load(tree / "work")
    assert kept is not None
    assert list(kept.answers) == ["5.q1"]
    assert (tree / "work" / "assessment.html").is_file()


# evidence and verdicts


def everything(tree: Path) -> Path:
    """All evidence there is; the sheet of right answers."""
    passed(tree)
    ran(tree, speed=(1.0, True), loud=(2.0, True))
    return sheet(tree)


def test_shown_needs_exercises_deliverables_and_questions(tree: Path) -> None:
    """With all three it is green."""
    found = assess(tree, "--answers", str(everything(tree)))
    assert found["summary"] == {"shown": 2, "partly": 0, "not shown": 0}
    assert [each["id"] for each in found["criteria"]] == ["sums", "words"]
    assert found["criteria"][0]["missing"] == []
    assert not (tree / "work" / state.STATE_FILE).exists(), "a grader's sheet is not a state"


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda tree: (tree / "work" / ".progress.json").unlink(), "1 exercise"),
        (lambda tree: (tree / "work" / LAB / "sums.py").unlink(), "1 exercise"),
        (
            lambda tree: (tree / "work" / LAB / "sums.py").write_text(SUMS + "    # changed"),
            None,
        ),
        (
            lambda tree: (tree / "work" / LAB / "sums.py").write_text(
                SUMS.replace("x + x", "2 * x")
            ),
            "1 exercise",
        ),
        (lambda tree: shutil.rmtree(tree / "runs"), "1 deliverable"),
        (lambda tree: ran(tree, mine=False, speed=(1.0, True)), "1 deliverable"),
        (lambda tree: ran(tree, speed=(12.0, False)), "1 deliverable"),
        (lambda tree: ran(tree, speed=(12.0, True)), "1 deliverable"),
        (lambda tree: ran(tree, speed=(None, True)), "1 deliverable"),
        (lambda tree: ran(tree, speed=(1.0, None)), "1 deliverable"),
        (lambda tree: sheet(tree, **{"5_q1": None}), "1 right answer"),
        (lambda tree: sheet(tree, **{"5_q2": 1.0}), "1 right answer"),
    ],
)
def test_nothing_is_green_without_its_evidence(
    tree: Path, change: Callable[[Path], object], missing: str | None
) -> None:
    """One piece away, or only claimed, and the criterion is no longer shown."""
    everything(tree)
    change(tree)
    sums = assess(tree, "--answers", str(tree / "answers.json"))["criteria"][0]
    if missing is None:
        assert sums["verdict"] == "shown", "a change outside the exercise's text leaves it passed"
    else:
        assert (sums["verdict"], sums["missing"]) == ("partly", [missing])


def test_nothing_done_is_not_shown_and_reference_code_counts_for_nothing(tree: Path) -> None:
    """The report of a fresh clone has no colour but red, whatever our own code did."""
    ran(tree, mine=False, speed=(1.0, True), loud=(2.0, True))
    found = assess(tree, "--report")
    assert found["summary"] == {"shown": 0, "partly": 0, "not shown": 2}
    speed = found["criteria"][0]["deliverables"][0]
    assert speed["outcome"] == "reference code"
    assert speed["reason"] == "the run used the reference code; passed there"


def test_a_criterion_without_questions_is_not_shown_by_the_rest() -> None:
    """No evidence of a kind is no evidence, not a free pass."""
    criterion = evidence.Criterion("x", "X", ("L5.speed",), ("5.1",))
    found = evidence.Finding(
        criterion,
        [evidence.ExerciseEvidence("5.1", "", "passed")],
        [evidence.DeliverableEvidence("L5.speed", "", "passed", 1.0)],
    )
    assert found.verdict == "partly"
    assert found.missing == ["questions: none was asked"]
    asked = evidence.QuestionEvidence(bank.draw(choice(), 0), 0.0, True)
    assert evidence.Finding(criterion, [], found.deliverables, [asked]).verdict == "partly"
    assert evidence.Finding(criterion, found.exercises, [], [asked]).verdict == "partly"
    assert (
        evidence.Finding(criterion, found.exercises, found.deliverables, [asked]).verdict == "shown"
    )


def test_guessing_supports_nothing(tree: Path) -> None:
    """Half of the answers right is what a lucky guess reaches; more is a part of a skill."""
    none = assess(tree, "--answers", str(sheet(tree, **{"5_q1": None})))["criteria"][0]
    both = assess(tree, "--answers", str(sheet(tree)))["criteria"][0]
    assert (none["verdict"], both["verdict"]) == ("not shown", "partly")


@pytest.mark.parametrize("text", ["", "{}", '{"lab": "x", "deliverables": [{}]}'])
def test_a_broken_run_is_named(tree: Path, text: str) -> None:
    """A file that cannot be read is no evidence of anything, and no crash."""
    ran(tree, speed=(1.0, True))
    (tree / "runs" / LAB / "latest" / "results.json").write_text(text)
    with pytest.raises(InputError, match=r"results\.json of a run"):
        evidence.deliverable_states(tree / "runs")


def test_the_criteria_are_those_of_the_curriculum() -> None:
    """Every question counts for one of them, and every one of them has questions."""
    criteria = {each.id: each for each in evidence.load_criteria(ROOT)}
    asked: dict[str, int] = dict.fromkeys(criteria, 0)
    for question in bank.load(ROOT):
        asked[question.criterion] += 1
    assert min(asked.values()) >= 8, asked
    assert all(each.deliverables and each.exercises for each in criteria.values())


def test_a_lab_alone_is_reported_by_the_criteria_it_shows() -> None:
    """With --lab the report is short, and still judged by all of a criterion's evidence."""
    criteria = evidence.load_criteria(ROOT)
    of = {lab: [c.id for c in criteria if c.concerns(lab)] for lab in ("lab2_x", "capstone")}
    assert of["lab2_x"] == ["vectors", "inference", "decisions"]
    assert {"fsdp", "serving", "fairness", "decisions"} <= set(of["capstone"])
    assert "debugging" not in of["capstone"]


# the command


def test_a_paper_holds_no_solution_and_comes_back_as_answers(tree: Path) -> None:
    """What goes to a learner must not tell the answers; the seed in it draws the same again."""
    file = tree / "paper.json"
    assert main(["assess", "--paper", str(file), "--seed", "3", "--questions", "2"], tree) == 0
    text = file.read_text()
    assert "successor" not in text
    assert "a * b" not in text
    written = json.loads(text)
    assert (written["seed"], written["questions"]) == (3, 2)
    assert set(written["answers"].values()) == {None}
    assert [each["id"] for each in written["paper"]] == list(written["answers"])
    first = next(iter(written["answers"]))
    asked = next(each for each in bank.paper(tree, 2, 3) if each.id == first)
    written["answers"][first] = right_key(asked)
    file.write_text(json.dumps(written))
    found = assess(tree, "--answers", str(file))
    assert [each["right"] for each in found["questions"]] == [True, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--questions", "0"], "--questions 0 must be at least 1"),
        (["--lab", "lab9"], "'lab9' is no lab"),
        (["--answers", "nowhere.json"], "there is no such file"),
        (["--report", "--runs", "nowhere"], "there is no such folder"),
        (["--report", "--seed", "4"], "--seed 4 is not how this assessment began (3)"),
        (["--report", "--exam"], "--exam"),
    ],
)
def test_bad_options_are_explained(
    tree: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Status 2, and what to do."""
    state.save(tree / "work", State(3))
    assert main(["assess", *arguments], tree) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no answer sheet"),
        ('{"seed": "3", "questions": 12, "answers": {}}', "whole numbers"),
        ('{"seed": 3, "questions": 12, "answers": []}', "must map question ids"),
        ('{"seed": 3, "questions": 12, "answers": {"5.q9": 1}}', "5.q9 is no question"),
        ('{"seed": 3, "questions": 12, "answers": {"5.q1": 7}}', "5.q1: 7 is no option"),
    ],
)
def test_a_bad_sheet_is_explained(
    tree: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    """A grader is told which answer cannot be read; none is silently wrong."""
    (tree / "answers.json").write_text(text)
    assert main(["assess", "--answers", str(tree / "answers.json")], tree) == 2
    assert message in capsys.readouterr().err


def test_beginning_anew_keeps_the_old_answers(tree: Path) -> None:
    """Nothing is lost to an option."""
    old = State(3)
    old.answer(bank.paper(tree, 12, 3)[0], 1)
    state.save(tree / "work", old)
    assess(tree, "--restart", "--report", "--seed", "5")
    (aside,) = (tree / "work").glob(".assessment-*.json")
    assert json.loads(aside.read_text())["answers"] == {"5.q1": 1}


def test_the_page_is_one_file_and_escapes_what_it_shows(tree: Path) -> None:
    """It is sent and printed as it is; a claim in results.json must not become markup."""
    everything(tree)
    page = tree / "a" / "page.html"
    assess(tree, "--answers", str(tree / "answers.json"), "--html", str(page))
    text = page.read_text(encoding="utf-8")
    assert "Add &lt;b&gt;numbers&lt;/b&gt;" in text
    assert "Which is &lt;two&gt;?" in text
    assert "<code>successor</code>" in text
    assert "@media print" in text
    assert "a claim, not a grade" in text
    for outside in ("<script", "<link", "src=", "http://", "https://"):
        assert outside not in text


def test_without_a_browser_the_page_is_what_to_print(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every machine has Chromium; the message says what to do before anything is asked."""
    monkeypatch.setenv("PATH", str(tree))
    assert main(["assess", "--report", "--pdf", str(tree / "a.pdf")], tree) == 2
    assert "needs Chromium or Chrome on PATH" in capsys.readouterr().err
    assert not (tree / "a.pdf").exists()


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, report.BROWSERS)), reason="no Chromium or Chrome")
def test_the_page_is_printed_to_pdf(tree: Path) -> None:
    """A whole PDF, and nothing else in the folder."""
    file = tree / "printed" / "a.pdf"
    assess(tree, "--report", "--pdf", str(file))
    data = file.read_bytes()
    assert data.startswith(b"%PDF-")
    assert data.rstrip().endswith(b"%%EOF")
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.slow
def test_check_runs_the_public_tests_now(tree: Path) -> None:
    """Without an earlier check nothing is passed; --check runs what the learner began."""
    before = assess(tree, "--report")
    after = assess(tree, "--report", "--check")
    states = [found["criteria"][0]["exercises"][0]["state"] for found in (before, after)]
    assert states == ["not checked", "passed"]
    assert after["checked_now"] == [LAB]
