import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import gate
from labs.lab3_fairness.gate_policy import METRICS, parse_policy, read_policy
from labs.lab3_fairness.gate_predictions import read_predictions
from labs.lab3_fairness.tabular import propublica_filter

POLICIES = Path(gate.__file__).parent / "policies"
BIG = {"a": 900, "b": 800}


@pytest.mark.exercise("3.18")
@pytest.mark.parametrize(
    ("lower", "upper", "direction", "expected"),
    [
        (0.02, 0.08, "at_most", "pass"),
        (0.12, 0.20, "at_most", "fail"),
        (0.04, 0.14, "at_most", "not enough data"),
        (0.08, 0.16, "at_most", "not enough data"),
        (0.12, 0.20, "at_least", "pass"),
        (0.02, 0.08, "at_least", "fail"),
        (0.04, 0.14, "at_least", "not enough data"),
        (0.08, 0.16, "at_least", "not enough data"),
    ],
)
def test_the_whole_interval_has_to_be_on_one_side(lower, upper, direction, expected):
    """With the bound 0.1: a pass or a fail needs both limits on its side of it.

    The middle of an interval that straddles the bound lies on one side by chance: a gate that
    reads it passes a model whose gap is exactly at the bound every second time. And an interval
    that merely touches the good side has shown nothing.
    """
    got = gate.verdict(lower, upper, 0.1, direction, BIG, 30)
    assert got == expected, f"{lower} to {upper}, {direction} 0.1: expected {expected}, got {got}"


@pytest.mark.exercise("3.18")
def test_a_small_group_forbids_a_pass():
    """The interval is of the groups with enough rows. It vouches for nobody else.

    Eleven people are left out of the interval; passing the rule would promise them what nobody
    has looked at.
    """
    got = gate.verdict(0.02, 0.08, 0.1, "at_most", {**BIG, "c": 11}, 30)
    assert got == "not enough data", f"group c has 11 rows of 30: got {got}"
    got = gate.verdict(0.02, 0.08, 0.1, "at_most", {**BIG, "c": 30}, 30)
    assert got == "pass", f"group c has 30 rows of 30: got {got}"


@pytest.mark.exercise("3.18")
def test_an_absent_group_forbids_a_pass():
    """A rule about a group of which no row counts is not kept: nobody has looked."""
    got = gate.verdict(0.02, 0.08, 0.1, "at_most", {**BIG, "c": 0}, 30)
    assert got == "not enough data", f"group c has no row: got {got}"


@pytest.mark.exercise("3.18")
def test_a_small_group_does_not_forbid_a_fail():
    """Two large groups are shown to differ too much. A third cannot make that good."""
    got = gate.verdict(0.12, 0.20, 0.1, "at_most", {**BIG, "c": 11, "d": 0}, 30)
    assert got == "fail", f"the large groups break the promise: got {got}"


@pytest.mark.exercise("3.18")
def test_no_interval_is_no_verdict():
    """NaN compares as False with everything, so code that asks for the opposite passes it."""
    for direction in ("at_most", "at_least"):
        got = gate.verdict(math.nan, math.nan, 0.1, direction, {"a": 3, "b": 1}, 30)
        assert got == "not enough data", f"no interval, {direction}: got {got}"


@pytest.mark.exercise("3.18")
@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.99))
def test_a_promise_and_its_mirror_image_have_mirrored_verdicts(one, other, bound):
    """An error rate of at most b is an accuracy of at least 1 - b: one verdict, two spellings."""
    low, high = sorted((round(one, 3), round(other, 3)))
    bound = round(bound, 3) + 0.0005  # never at a limit, where rounding decides
    got = gate.verdict(low, high, bound, "at_most", BIG, 1)
    mirrored = gate.verdict(1 - high, 1 - low, 1 - bound, "at_least", BIG, 1)
    assert got == mirrored, f"{low} to {high} at most {bound}: {got}; mirrored: {mirrored}"


RULE = {"name": "r", "metric": "selection_rate", "kind": "difference", "bound": 0.1}
COLUMNS = {"label": "y", "prediction": "p", "group": "g"}


def policy(*rules, columns=None, **more):
    return parse_policy({"columns": columns or COLUMNS, "rules": list(rules) or [RULE], **more})


def decisions(rates, n):
    """Labels, decisions and groups: the first ``rate * n`` of each group's n rows are chosen."""
    y, p, g = [], [], []
    for group, rate in rates.items():
        chosen = round(rate * n)
        p += [1] * chosen + [0] * (n - chosen)
        y += [0, 1] * (n // 2)
        g += [group] * n
    return y, p, g


def test_a_clear_gap_fails_a_small_one_passes_and_few_rows_decide_nothing():
    """The same rates with a tenth of the rows are no longer evidence, either way."""
    for rates, n, expected, status in (
        ({"a": 0.50, "b": 0.30}, 1000, "fail", 1),
        ({"a": 0.50, "b": 0.49}, 1000, "pass", 0),
        ({"a": 0.50, "b": 0.30}, 60, "not enough data", 3),
        ({"a": 0.50, "b": 0.49}, 60, "not enough data", 3),
    ):
        report = gate.judge(policy(), *decisions(rates, n))
        assert (report.verdict, report.exit_status) == (expected, status), report.text()


def test_one_fail_outweighs_what_is_not_known():
    """Status 1 before 3, 3 before 0."""
    rules = [
        {**RULE, "name": "fails", "bound": 0.05},
        {**RULE, "name": "unknown", "bound": 0.2},
        {**RULE, "name": "passes", "bound": 0.5},
    ]
    data = decisions({"a": 0.50, "b": 0.30}, 500)
    report = gate.judge(policy(*rules), *data)
    assert [str(result.verdict) for result in report.results] == ["fail", "not enough data", "pass"]
    assert report.exit_status == 1
    assert gate.judge(policy(*rules[1:]), *data).exit_status == 3
    assert report.result("unknown").rows_factor == math.inf, "the estimate is at the bound"
    assert report.table()["rule"].tolist() == ["fails", "unknown", "passes"]
    with pytest.raises(InputError, match="no rule 'other'; the policy has fails, unknown, passes"):
        report.result("other")


def test_not_enough_data_says_how_many_rows_would_do():
    """ "Collect more" is no instruction; "about 340 in group b" is one."""
    report = gate.judge(policy(), *decisions({"a": 0.50, "b": 0.30}, 60))
    (result,) = report.results
    more = round(60 * result.rows_factor)
    assert 1.5 < result.rows_factor < 10
    assert "times the rows would fail it" in result.explanation
    assert "in place of 60" in result.explanation
    assert gate.judge(policy(), *decisions({"a": 0.50, "b": 0.30}, more)).verdict == "fail"


def test_a_group_without_positives_is_not_passed_over():
    """No TPR among no positives: the rule does not pass, and says whom it could not judge."""
    rule = {**RULE, "metric": "true_positive_rate", "bound": 0.2}
    y, p, g = decisions({"a": 0.50, "b": 0.49}, 1000)
    report = gate.judge(policy(rule), [*y, *[0] * 500], [*p, *[0] * 500], [*g, *["c"] * 500])
    (result,) = report.results
    assert result.counted["c"] == 0
    assert result.verdict == "not enough data"
    assert "group 'c' has no row that counts" in result.explanation


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_that_of_the_confusion_matrix(metric):
    """COMPAS, the two races of the published debate: FPR .42 and .22, PPV .65 and .59."""
    scores = propublica_filter(load("compas").table("scores"))
    rule = {**RULE, "metric": metric, "groups": ["African-American", "Caucasian"]}
    high = (scores["decile_score"] > 4).astype(int)
    report = gate.judge(policy(rule), scores["two_year_recid"], high, scores["race"])
    known = {
        "selection_rate": (0.5761, 0.3310),
        "true_positive_rate": (0.7152, 0.5036),
        "false_positive_rate": (0.4234, 0.2201),
        "false_negative_rate": (0.2848, 0.4964),
        "positive_predictive_value": (0.6495, 0.5948),
        "accuracy": (0.6491, 0.6719),
    }[metric]
    assert tuple(report.results[0].values.values()) == pytest.approx(known, abs=1e-4)


def test_the_shipped_policy_judges_compas(tmp_path, capsys):
    """Fail on false alarms, pass on predictive value, and no verdict on seven people."""
    table = propublica_filter(load("compas").table("scores"))
    file, written = tmp_path / "compas.csv", tmp_path / "report.json"
    table[["two_year_recid", "decile_score", "race"]].to_csv(file, index=False)
    status = gate.main([str(POLICIES / "compas.toml"), str(file), "--json", str(written)])
    out, error = capsys.readouterr()
    assert status == 1, error
    report = json.loads(written.read_text(encoding="utf-8"))
    assert [rule["verdict"] for rule in report["rules"]] == [
        "fail",
        "fail",
        "pass",
        "not enough data",
        "pass",
    ]
    assert report["verdict"] == "fail"
    assert report["rules"][3]["counted"]["Asian"] == 7
    assert "without 'Asian' (7), 'Native American' (8): fewer than 30 rows count" in out


def test_the_shipped_policies_are_sound():
    """Every policy in the folder can be read, and says why each bound is what it is."""
    files = sorted(POLICIES.glob("*.toml"))
    assert [file.stem for file in files] == ["adult", "compas"]
    for file in files:
        assert all(rule.reason for rule in read_policy(file).rules), file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rules": [RULE]}, r"columns must be a table; begin it with \[columns\]"),
        ({"columns": COLUMNS}, r"rules must hold at least one rule"),
        ({"columns": COLUMNS, "rules": []}, "rules must hold at least one rule"),
        ({"columns": COLUMNS, "rule": [RULE]}, "unknown key 'rule'; did you mean 'rules'"),
        ({"columns": {**COLUMNS, "scores": "s"}, "rules": [RULE]}, "did you mean 'score'"),
        ({"columns": {**COLUMNS, "score": "s"}, "rules": [RULE]}, "either prediction, or score"),
        ({"columns": {"label": "y", "group": "g"}, "rules": [RULE]}, "either prediction, or score"),
        ({"columns": {**COLUMNS, "group": []}, "rules": [RULE]}, r"group = \[\] must be a column"),
        ({"columns": {**COLUMNS, "group": "y"}, "rules": [RULE]}, "column 'y' is named twice"),
        (
            {"columns": {"label": "y", "group": "g", "score": "s"}, "rules": [RULE]},
            "threshold = None must be a finite number",
        ),
        ({"columns": COLUMNS, "rules": [RULE, RULE]}, "two rules are called 'r'"),
        ({"columns": COLUMNS, "rules": [RULE], "defaults": {"bound": 1}}, "unknown key 'bound'"),
        ({"columns": COLUMNS, "rules": ["r"]}, "rules must hold at least one rule"),
    ],
)
def test_a_policy_that_says_something_else_is_refused(content, message):
    """A misspelt key that is passed over is a promise nobody made."""
    with pytest.raises(InputError, match=message):
        parse_policy(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name = '' must be text"),
        ({"metric": "recall"}, "metric = 'recall' must be one of selection_rate"),
        ({"metric": "true_positiv_rate"}, "did you mean 'true_positive_rate'"),
        ({"kind": "gap"}, "kind = 'gap' must be one of difference, ratio, worst_group"),
        ({"bound": "0.1"}, "bound = '0.1' must be a finite number"),
        ({"bound": True}, "bound = True must be a finite number"),
        ({"bound": math.nan}, "must be a finite number"),
        ({"bound": 10}, "bound = 10.0 must lie between 0 and 1"),
        ({"bound": 0}, "can be shown by none"),
        ({"direction": "at_least"}, "direction = 'at_least' must be 'at_most' for difference"),
        ({"kind": "worst_group"}, "direction = None must be one of at_most, at_least"),
        ({"confidence": 95}, "confidence = 95.0 must be above 0.5 and at most 0.99"),
        ({"min_rows": 0}, "min_rows = 0 must be a whole number >= 1"),
        ({"min_rows": 2.5}, "min_rows = 2.5 must be a whole number"),
        ({"groups": "everybody"}, 'must be "all" or a list of names'),
        ({"groups": ["a"]}, "must be at least 2 different names"),
        ({"groups": ["a", "a"]}, "must be at least 2 different names"),
        ({"min_row": 30}, "unknown key 'min_row'; did you mean 'min_rows'"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(change, message):
    """Every message names the rule, the value and what it must be."""
    with pytest.raises(InputError, match=message):
        policy({**RULE, **change})


def test_a_default_is_taken_and_a_rule_overrides_it():
    """The policy states its confidence once, and a rule may be stricter."""
    made = policy(RULE, {**RULE, "name": "s", "confidence": 0.99}, defaults={"confidence": 0.9})
    assert [rule.confidence for rule in made.rules] == [0.9, 0.99]
    assert made.rules[0].direction == "at_most"
    assert made.rules[0].promise == "selection_rate difference <= 0.1"


@pytest.mark.parametrize("content", [b"= 1", b"\xff\xfe", b"a = 1\na = 2", b"x" * 1_000_001])
def test_a_file_that_is_no_policy_is_refused(tmp_path, content):
    """Broken TOML, another encoding, a key twice, a file of a megabyte."""
    file = tmp_path / "policy.toml"
    file.write_bytes(content)
    with pytest.raises(InputError, match="policy"):
        read_policy(file)
    with pytest.raises(InputError, match="policy"):
        read_policy(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"y,p\n1,1\n", "no column 'g'; the file has 'y', 'p'"),
        (b"", "no column 'y'"),
        (b"y,p,g\n", "rows = 0 must be at least 1"),
        (b"y,p,g,g\n1,1,a,b\n", "column 'g' stands there twice"),
        (b"y,p,g\n1,1,a\n1,1\n", "line 3: 2 fields, the header has 3"),
        (b"y,p,g\n1,1,a,b\n", "line 2: 4 fields, the header has 3"),
        (b"y,p,g\n1,1,a\n,1,a\n", "line 3: y = '' is missing"),
        (b"y,p,g\n1,NaN,a\n", "line 2: p = 'NaN' is missing"),
        (b"y,p,g\n1,1,\n", "line 2: g = '' is missing; leave the row out, or give"),
        (b"y,p,g\n2,1,a\n", "line 2: y = '2' must be 0 or 1"),
        (b"y,p,g\n1,0.7,a\n", "line 2: p = '0.7' must be 0 or 1"),
        (b"y,p,g\nTrue,1,a\n", "line 2: y = 'True' must be 0 or 1"),
        (b'y,p,g\n1,1,"a\n', "is no CSV in UTF-8"),
        (b"y,p,g\n1,1,\xff\n", "is no CSV in UTF-8"),
        (b"y,p,g\n1,1," + b"x" * 200_000 + b"\n", "is no CSV in UTF-8"),
    ],
)
def test_a_file_of_predictions_that_is_not_one_is_refused(tmp_path, capsys, content, message):
    """The file comes from outside: each fault is named with its line, and the status is 2."""
    file, rules = tmp_path / "predictions.csv", tmp_path / "policy.toml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_predictions(file, policy().columns)
    rules.write_text(
        '[columns]\nlabel = "y"\nprediction = "p"\ngroup = "g"\n[[rules]]\nname = "r"\n'
        'metric = "accuracy"\nkind = "difference"\nbound = 0.1\n',
        encoding="utf-8",
    )
    assert gate.main([str(rules), str(file)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_scores_are_decided_at_the_threshold(tmp_path):
    """At or above it is 1; infinity is no score; a byte order mark and blanks do no harm."""
    columns = policy(columns={"label": "y", "score": "s", "threshold": 0.5, "group": "g"}).columns
    file = tmp_path / "scores.csv"
    file.write_bytes(b"\xef\xbb\xbfy, s ,g\n1, 0.5 ,a\n0,0.49,b\n\n1.0,-3,a\n")
    table = read_predictions(file, columns)
    assert table.decisions.tolist() == [1, 0, 0]
    assert table.groups.tolist() == ["a", "b", "a"]
    file.write_text("y,s,g\n1,inf,a\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: s = 'inf' must be a finite number"):
        read_predictions(file, columns)


def test_two_group_columns_are_judged_as_their_intersection(tmp_path):
    """And two pairs of names that read alike are not thrown together."""
    columns = policy(columns={**COLUMNS, "group": ["g", "h"]}).columns
    file = tmp_path / "two.csv"
    file.write_text("y,p,g,h\n1,1,a,x\n0,1,b,x\n", encoding="utf-8")
    assert read_predictions(file, columns).groups.tolist() == ["a & x", "b & x"]
    file.write_text("y,p,g,h\n1,1,a & b,c\n0,1,a,b & c\n", encoding="utf-8")
    with pytest.raises(InputError, match="group 'a & b & c' is two groups"):
        read_predictions(file, columns)


def test_a_rule_about_a_group_that_is_not_there_is_an_error():
    """A name misspelt, or a group that an upstream join has lost: neither is a pass."""
    rule = {**RULE, "groups": ["a", "c"]}
    with pytest.raises(InputError, match="group 'c' is not in the data, which has 'a', 'b'"):
        gate.judge(policy(rule), *decisions({"a": 0.5, "b": 0.5}, 100))


def test_an_id_for_a_group_is_refused():
    """A thousand groups of one row are a column named by mistake."""
    y, p, _ = decisions({"a": 0.5}, 1000)
    with pytest.raises(InputError, match="number of groups = 1000 must be <= 100; is the group"):
        gate.judge(policy(), y, p, [f"id{i}" for i in range(1000)])
    with pytest.raises(InputError, match="only the group"):
        gate.judge(policy(), y, p, ["a"] * 1000)


def test_the_command_imports_nothing_heavy_before_it_has_read_its_files():
    """--help answers at once, and a misspelt path is told in a moment."""
    code = (
        "import sys; from labs.lab3_fairness import gate\n"
        "print(sorted({'pandas', 'scipy', 'sklearn', 'fairlearn', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_report_is_strict_json_even_without_numbers():
    """NaN is not JSON; whoever reads the report next may not be Python."""
    report = gate.judge(policy(), *decisions({"a": 0.5, "b": 0.5}, 10))
    content = json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert content["rules"][0]["lower"] is None
    assert content["exit_status"] == 3


def test_an_unwritable_report_is_bad_input(tmp_path, capsys):
    """Before the verdict is printed, so that no pipeline takes the verdict and lacks the report."""
    table = pd.DataFrame(
        dict(zip(("income", "prediction", "sex"), decisions({"Female": 0.5, "Male": 0.5}, 200)))
    )
    file = tmp_path / "adult.csv"
    table.to_csv(file, index=False)
    missing = tmp_path / "no" / "report.json"
    assert gate.main([str(POLICIES / "adult.toml"), str(file), "--json", str(missing)]) == 2
    captured = capsys.readouterr()
    assert "--json" in captured.err
    assert captured.out == ""


TOML = """
[columns]
label = "y"
prediction = "p"
group = "g"
[[rules]]
name = "r"
metric = "selection_rate"
kind = "difference"
bound = 0.1
"""
CSV = "y,p,g\n" + "1,1,a\n0,0,b\n" * 40


@pytest.fixture
def command(tmp_path, capsys):
    """Runs the command on a policy and a table; status, standard output, standard error."""

    def run(toml=TOML, csv=CSV, *more):
        rules, table = tmp_path / "rules.toml", tmp_path / "table.csv"
        rules.write_text(toml, encoding="utf-8")
        table.write_text(csv, encoding="utf-8", newline="")
        status = gate.main([str(rules), str(table), *map(str, more)])
        out, error = capsys.readouterr()
        assert "NotImplementedError" not in error, error
        return status, out, error

    return run


@pytest.mark.parametrize("digits", ["9" * 400, "9" * 5000, "0x" + "f" * 6000])
@pytest.mark.parametrize("key", ["bound", "min_rows", "confidence", "threshold"])
def test_a_number_of_hundreds_of_digits_is_bad_input(command, key, digits):
    """A traceback has status 1, and a pipeline reads 1 as "a rule fails"."""
    if key == "threshold":
        toml = TOML.replace('prediction = "p"', f'score = "p"\nthreshold = {digits}')
    else:
        toml = TOML.replace("bound = 0.1", "" if key == "bound" else "bound = 0.1")
        toml += f"{key} = {digits}\n"
    status, out, error = command(toml)
    assert (status, out) == (2, ""), error
    assert error.startswith("error: ")
    assert "rules.toml" in error
    assert error.count("\n") == 1
    assert len(error) < 400


@pytest.mark.parametrize(
    "toml",
    [
        "a = " + "[" * 20_000 + "]" * 20_000,
        "a = " + "{a = " * 20_000 + "1" + "}" * 20_000,
        TOML + "reason" + ".a" * 5_000 + " = 1",
        TOML.replace("bound = 0.1", "bound" + ".a" * 5_000 + " = 1"),
        TOML.replace('kind = "difference"', "kind = 0x" + "f" * 6000),
    ],
)
def test_a_policy_that_is_nested_too_deeply_is_bad_input(command, toml):
    """The reader of TOML gives up with an error of its own; so does whoever prints the value."""
    status, out, error = command(toml)
    assert (status, out) == (2, ""), error
    assert "rules.toml" in error
    assert error.count("\n") == 1


def test_status_1_means_nothing_but_a_broken_rule(command, monkeypatch):
    """What nobody foresaw is no verdict either."""

    def broken(*_):
        raise ZeroDivisionError("a fault\n::notice ::in the gate")

    monkeypatch.setattr(gate, "judge", broken)
    status, out, error = command()
    assert (status, out) == (2, "")
    assert all(line.startswith("error: ") for line in error.splitlines()), error


@pytest.mark.parametrize(
    "name", ["x\n::notice ::passed", "x\x1b[2K", "x\u2028y", "##vso[task.complete]", "a ##[error]b"]
)
def test_a_name_cannot_act_in_the_log(command, tmp_path, name):
    """A line of its own, a terminal's escape, a pipeline's command: refused wherever it stands."""
    quoted = json.dumps(name)
    report = tmp_path / "report.json"
    rows = "y,p,g\n1,1,a\n"
    for toml, csv in (
        (TOML, f'y,p,g\n1,1,a\n0,0,"{name}"\n'),
        (TOML.replace('name = "r"', f"name = {quoted}"), rows),
        (TOML.replace('"g"', quoted), rows),
        (TOML.replace('"p"', quoted), rows),
        (TOML + f"groups = [{quoted}, 'a']", rows),
        (f"title = {quoted}\n{TOML}", rows),
        (TOML, f'"{name}",p,g\n1,1,a\n'),
        (TOML, f'y,p,g\n"{name}",1,a\n'),
    ):
        status, out, error = command(toml, csv, "--json", report)
        assert (status, out) == (2, ""), toml
        assert error.count("\n") == 1, error
        assert error[:-1].isprintable(), repr(error)
        assert "##[" not in error
        assert "##vso[" not in error
    assert not report.exists()
    with pytest.raises(InputError, match="holds a control character"):
        gate.judge(policy(), [0, 1], [0, 1], ["a", name])


def test_what_is_printed_is_one_line_a_statement(command):
    """Names that look like commands stand inside a line and in quotes; a reason is one line."""
    toml = f'title = "::error ::t"\n{TOML}reason = """one\n::notice ::two"""'
    status, out, _ = command(toml, "y,p,g\n" + "1,1,::notice ::a\n0,0,b\n" * 10)
    assert status == 3
    assert len(out.splitlines()) == 4, out
    assert not any(line.lstrip().startswith("::") for line in out.splitlines()), out
    assert "'::notice ::a' (10)" in out


def test_a_terminal_without_the_letters_of_a_name_changes_no_verdict(tmp_path):
    """The name is spelt out; the status stays the verdict's."""
    rules, table = tmp_path / "rules.toml", tmp_path / "table.csv"
    rules.write_text(TOML, encoding="utf-8")
    table.write_text("y,p,g\n" + "1,1,Māori\n0,0,b\n" * 10, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "labs.lab3_fairness.gate", str(rules), str(table)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 3, done.stderr
    assert "M\\u0101ori" in done.stdout


def test_the_report_is_never_written_over_what_was_judged(command, tmp_path):
    """Under its own name, through a symbolic link or as a second name of the same file."""
    for name, content in (("rules.toml", TOML), ("table.csv", CSV)):
        target, link, second = tmp_path / name, tmp_path / "link.json", tmp_path / "second.json"
        target.touch()
        link.symlink_to(target)
        second.hardlink_to(target)
        for path in (target, link, second):
            status, out, error = command(TOML, CSV, "--json", path)
            assert (status, out) == (2, ""), path
            assert f"is the input {target}" in error
        assert target.read_text(encoding="utf-8") == content
        link.unlink()
        second.unlink()


def test_the_report_is_written_whole_or_not_at_all(command, tmp_path, monkeypatch):
    """A disk that is full leaves the old report, no partial one, and no verdict (status 2)."""
    report = tmp_path / "report.json"
    report.write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        status, out, error = command(TOML, CSV, "--json", report)
    assert (status, out) == (2, "")
    assert "No space left" in error
    assert report.read_text() == "old"
    assert list(tmp_path.glob(".*partial")) == []
    assert command(TOML, CSV, "--json", report)[0] == 1
    assert json.loads(report.read_text())["exit_status"] == 1
    for place in (tmp_path, Path("/dev/null")):
        assert command(TOML, CSV, "--json", place)[0] == 2
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("metric", ["selection_rate", "positive_predictive_value"])
def test_a_ratio_of_nobody_to_nobody_is_not_enough_data(metric):
    """0 / 0 is no ratio: no estimate, no "nan" in the text, and it is said why."""
    rule = {**RULE, "metric": metric, "kind": "ratio", "bound": 0.8}
    y, _, g = decisions({"a": 0.5, "b": 0.5}, 400)
    p = [0] * 800 if metric == "selection_rate" else [1 - label for label in y]
    report = gate.judge(policy(rule), y, p, g)
    (result,) = report.results
    assert result.verdict == "not enough data"
    assert math.isnan(result.estimate)
    assert ("nobody is selected" in result.explanation) == (metric == "selection_rate")
    assert f"every {metric} is 0" in result.explanation
    assert f"until some group has a {metric} above 0" in result.explanation
    assert "nan" not in report.text().lower()
    assert "at the bound" not in report.text()


def test_no_explanation_prints_nan():
    """Groups that are all too small, or of which no row counts, have no limits to print."""
    rule = {**RULE, "metric": "positive_predictive_value", "kind": "ratio", "bound": 0.8}
    y, _, g = decisions({"a": 0.5, "b": 0.5}, 400)
    for report in (
        gate.judge(policy(rule), y, [0] * 800, g),
        gate.judge(policy(), *decisions({"a": 0.5, "b": 0.5}, 10)),
    ):
        assert report.exit_status == 3
        assert "nan" not in report.text().lower(), report.text()
        assert "no limits: too few groups" in report.text()


@pytest.mark.parametrize("marker", ["?", "None", "N/A", "nan", "NaN", "", " ? ", "<NA>", "#N/A"])
def test_a_marker_of_a_missing_group_is_no_group(command, marker):
    """People whose group nobody recorded are not a group of their own until somebody says so."""
    csv = f"y,p,g\n1,1,a\n0,0,{marker}\n0,1,b\n"
    status, out, error = command(TOML, csv)
    assert (status, out) == (2, "")
    assert "table.csv line 3" in error
    assert f"g = {marker.strip()!r} is missing; leave the row out" in error
    assert ('missing_group = "keep"' in error) == bool(marker.strip())
    keep = TOML.replace('group = "g"', 'group = "g"\nmissing_group = "keep"')
    assert command(keep, csv)[0] == (3 if marker.strip() else 2)
    assert command(keep, csv.replace("0,1,b", "?,1,b"))[0] == 2, "a label is never kept"


def test_missing_groups_are_refused_or_kept_and_nothing_else():
    """The key has two values; a third is a misunderstanding."""
    assert policy(columns={**COLUMNS, "missing_group": "keep"}).columns.keep_missing
    assert not policy(columns={**COLUMNS, "missing_group": "refuse"}).columns.keep_missing
    with pytest.raises(InputError, match="missing_group = 'drop' must be one of refuse, keep"):
        policy(columns={**COLUMNS, "missing_group": "drop"})
