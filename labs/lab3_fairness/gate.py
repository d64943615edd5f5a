"""A gate: does a table of predictions keep a policy's promises? Pass, fail, or not enough data.

    python -m labs.lab3_fairness.gate POLICY.toml PREDICTIONS.csv [--json FILE]

Exit status: 0 every rule passes, 1 a rule fails and nothing else, 3 none fails but the data do
not decide, 2 no verdict: bad input, or a report that cannot be written. Policies to begin with
are in labs/lab3_fairness/policies.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, InputError, RunError, require
from common.exercises import exercise
from labs.lab3_fairness.gate_policy import Policy, Rule, read_policy
from labs.lab3_fairness.gate_predictions import read_predictions
from labs.lab3_fairness.untrusted import one_line, safe
from labs.lab3_fairness.whole_file import write_whole

if TYPE_CHECKING:
    import pandas as pd

EXIT_NOT_ENOUGH_DATA = 3
MAX_GROUPS = 100


class Verdict(StrEnum):
    """What the data say about a promise."""

    PASS = "pass"
    FAIL = "fail"
    NOT_ENOUGH_DATA = "not enough data"


@exercise(
    "3.18",
    points=5,
    title="Pass, fail, or not enough data",
    hint="Each of the two claims needs the whole interval on its side. Then ask what a pass says "
    "about a group that hardly took part in the interval, and whether the same holds for a fail.",
)
def verdict(
    lower: float,
    upper: float,
    bound: float,
    direction: str,
    counted: Mapping[str, int],
    min_rows: int,
) -> Verdict:
    """Judge an interval against a bound.

    The interval is of the worst group (or the worst pair of groups) among those that count at
    least ``min_rows`` rows. *Pass* says that the promise holds for every group; *fail* that it is
    broken for some. So one group with too few rows forbids a pass, and not a fail.

    Parameters
    ----------
    lower, upper
        Confidence limits; both NaN when too few groups count enough rows to have an interval.
    bound
        What was promised.
    direction
        "at_most": the quantity must be <= bound. "at_least": it must be >= bound.
    counted
        Rows that the metric counts in each group the rule is about; 0 for a group without any.
    min_rows
        Fewer are no evidence about a group.

    Returns
    -------
    Verdict

    Raises
    ------
    InputError
        For another direction, or lower > upper.
    """
    require(
        direction in ("at_most", "at_least"), "direction", direction, "must be at_most, at_least"
    )
    require(not lower > upper, "lower", lower, f"must be <= upper = {upper}")
    at_most = direction == "at_most"
    if lower > bound if at_most else upper < bound:
        return Verdict.FAIL
    kept = upper <= bound if at_most else lower >= bound
    if kept and all(n >= min_rows for n in counted.values()):
        return Verdict.PASS
    return Verdict.NOT_ENOUGH_DATA


@dataclass(frozen=True)
class RuleResult:
    """One rule's verdict and what it rests on.

    ``counted`` has the rows that the metric counts in each group, ``values`` the metric. The
    estimate of a gap is biased upward and decides nothing. ``rows_factor`` is about how many times
    the rows would decide with power .8, infinite when the estimate is at the bound, NaN when
    unknown or not needed.
    """

    rule: Rule
    verdict: Verdict
    estimate: float
    lower: float
    upper: float
    counted: Mapping[str, int]
    values: Mapping[str, float]
    rows_factor: float
    explanation: str


@dataclass(frozen=True)
class GateReport:
    """The verdicts of a policy on one table of predictions."""

    policy: Policy
    rows: int
    results: tuple[RuleResult, ...]

    @property
    def verdict(self) -> Verdict:
        """Fail if any rule fails, pass if all pass, otherwise not enough data."""
        verdicts = {result.verdict for result in self.results}
        for worst in (Verdict.FAIL, Verdict.NOT_ENOUGH_DATA):
            if worst in verdicts:
                return worst
        return Verdict.PASS

    @property
    def exit_status(self) -> int:
        """0 pass, 1 fail, 3 not enough data."""
        return {
            Verdict.PASS: EXIT_OK,
            Verdict.FAIL: EXIT_FAILED,
            Verdict.NOT_ENOUGH_DATA: EXIT_NOT_ENOUGH_DATA,
        }[self.verdict]

    def result(self, name: str) -> RuleResult:
        """The result of the rule of that name; InputError when there is none."""
        for result in self.results:
            if result.rule.name == name:
                return result
        known = ", ".join(result.rule.name for result in self.results)
        raise InputError(f"no rule {name!r}; the policy has {known}")

    def table(self) -> pd.DataFrame:
        """One row a rule: rule, promise, verdict, estimate, lower, upper, rows_factor."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "rule": result.rule.name,
                    "promise": result.rule.promise,
                    "verdict": str(result.verdict),
                    "estimate": result.estimate,
                    "lower": result.lower,
                    "upper": result.upper,
                    "rows_factor": result.rows_factor,
                }
                for result in self.results
            ]
        )

    def text(self) -> str:
        """For a log."""
        lines = [f"{self.policy.title!r}: {self.rows} rows"]
        for result in self.results:
            lines.append(f"{result.verdict!s:>15}  {result.rule.name}: {result.explanation}")
            if result.rule.reason and result.verdict is not Verdict.PASS:
                lines.append(f"{'':>17}the bound's reason: {result.rule.reason}")
        return "\n".join([*map(one_line, lines), f"verdict: {self.verdict}"])

    def to_json(self) -> str:
        """The report as JSON; what is not a finite number is null."""
        content = {
            "policy": self.policy.title,
            "rows": self.rows,
            "verdict": str(self.verdict),
            "exit_status": self.exit_status,
            "rules": [asdict(result) for result in self.results],
        }
        return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def judge(policy: Policy, labels: ArrayLike, decisions: ArrayLike, groups: ArrayLike) -> GateReport:
    """Judge predictions by every rule of a policy.

    A policy's wrong pass needs every broken rule to pass wrongly, so its probability is at most
    the error rate of one rule; a wrong fail of any of K rules is up to K times as likely.

    Parameters
    ----------
    labels, decisions : arrays of shape [n]
        0 or 1.
    groups : array of shape [n]

    Raises
    ------
    InputError
        For values other than 0 and 1, lengths that differ, a missing group, only one group, more
        than ``MAX_GROUPS``, a group whose name would act in a log, or a rule about a group that
        is not in the data.
    """
    from labs.lab3_fairness.confusion import binary_inputs

    truth, decided, codes, names = binary_inputs(labels, decisions, groups)
    require(
        len(names) <= MAX_GROUPS,
        "number of groups",
        len(names),
        f"must be <= {MAX_GROUPS}",
        "is the group column an id?",
    )
    texts = [safe(str(name), "group") for name in names]
    require(len(set(texts)) == len(texts), "groups", texts, "must be distinct as text")
    results = tuple(_judge_rule(rule, truth, decided, codes, texts) for rule in policy.rules)
    return GateReport(policy, len(truth), results)


def _judge_rule(
    rule: Rule,
    truth: NDArray[Any],
    decided: NDArray[Any],
    codes: NDArray[np.intp],
    names: Sequence[str],
) -> RuleResult:
    from labs.lab3_fairness import gate_bounds, row_metrics

    asked = rule.groups or tuple(names)
    if absent := [name for name in asked if name not in names]:
        raise InputError(
            f"rule {rule.name!r}: group {absent[0]!r} is not in the data, which has "
            f"{', '.join(map(repr, names))}; a promise about nobody is not kept"
        )
    metric: row_metrics.RowMetric = getattr(row_metrics, rule.metric)
    counts = metric.where(truth, decided)
    value = np.where(counts, metric.value(truth, decided), 0.0)
    chosen = [names.index(name) for name in asked]
    n = _sums(codes, counts, len(names))[chosen]
    x = _sums(codes, value, len(names))[chosen]
    enough = n >= rule.min_rows
    lower = upper = guess = math.nan
    if enough.sum() >= (1 if rule.kind == "worst_group" else 2):
        quantity = (rule.kind, rule.direction, x[enough], n[enough])
        lower, upper = gate_bounds.bounds(*quantity, 1 - rule.confidence)
        guess = gate_bounds.estimate(*quantity)
    counted = {name: int(rows) for name, rows in zip(asked, n)}
    values = {name: float(a / b) if b else math.nan for name, a, b in zip(asked, x, n)}
    result = verdict(lower, upper, rule.bound, rule.direction, counted, rule.min_rows)
    said = f"{rule.promise}; {_found(rule, guess, lower, upper)}"
    if left_out := [f"{name!r} ({rows})" for name, rows in counted.items() if rows < rule.min_rows]:
        said += f"; without {', '.join(left_out)}: fewer than {rule.min_rows} rows count"
    factor = math.nan
    if result is Verdict.NOT_ENOUGH_DATA:
        factor, advice = _advice(rule, asked, x, n)
        said = f"{said}; {advice}"
    return RuleResult(rule, result, guess, lower, upper, counted, values, factor, said)


def _sums(codes: NDArray[np.intp], weights: NDArray[Any], groups: int) -> NDArray[np.float64]:
    return np.bincount(codes, weights=weights, minlength=groups).astype(np.float64)


def _found(rule: Rule, guess: float, lower: float, upper: float) -> str:
    """Estimate and limits in words; why there are none, where there are none."""
    if math.isnan(lower):
        return "no limits: too few groups have enough rows that count"
    limits = f"limits {lower:.3f} to {upper:.3f}"
    if math.isnan(guess):
        nobody = "nobody is selected" if rule.metric == "selection_rate" else "0 divided by 0"
        return f"no estimate, since every {rule.metric} is 0: {nobody}; {limits}"
    return f"estimate {guess:.3f}, {limits}"


def _advice(
    rule: Rule, names: Sequence[str], x: NDArray[np.float64], n: NDArray[np.float64]
) -> tuple[float, str]:
    """How many times the rows would decide, and a sentence that says so."""
    from labs.lab3_fairness.gate_bounds import rows_needed

    empty = [name for name, rows in zip(names, n) if rows == 0]
    if empty:
        return math.nan, f"group {empty[0]!r} has no row that counts; collect some first"
    if rule.kind == "ratio" and not x.any():
        return math.nan, f"there is no ratio until some group has a {rule.metric} above 0"
    needed = rows_needed(rule.kind, rule.direction, x, n, rule.bound, 1 - rule.confidence)
    smallest = int(np.argmin(n))
    least = rule.min_rows / float(n[smallest])
    factor = max(needed.factor, least)
    if not math.isfinite(factor):
        return math.inf, "the estimate lies at the bound: more rows will not decide"
    sentence = (
        f"about {factor:.2g} times the rows would {'pass' if needed.would_pass else 'fail'} it "
        f"at these rates (power .8): in {names[smallest]!r} {math.ceil(n[smallest] * factor):,} "
        f"that count, in place of {int(n[smallest]):,}"
    )
    if least > 1:
        sentence += f", fewer than min_rows = {rule.min_rows}: its rate is a guess"
    return factor, sentence


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Judge a file; the exit status is in the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m labs.lab3_fairness.gate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("policy", type=Path, help="TOML file of columns and rules")
    parser.add_argument("predictions", type=Path, help="CSV file with a header")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as well")
    options = parser.parse_args(argv)
    try:
        policy = read_policy(options.policy)
        table = read_predictions(options.predictions, policy.columns)
        report = judge(policy, table.labels, table.decisions, table.groups)
        if options.json is not None:
            inputs = (options.policy, options.predictions)
            write_whole(options.json, report.to_json(), "--json", inputs)
        _print(report.text())
    except (InputError, RunError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Exception:  # whatever it is, it is not "a rule fails", which is status 1
        for line in traceback.format_exc().splitlines():
            print(f"error: {one_line(line)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return report.exit_status


def _print(text: str) -> None:
    """A terminal that lacks a letter of a group's name gets it spelt out."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


if __name__ == "__main__":
    sys.exit(main())
