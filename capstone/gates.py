"""Gates: what a candidate must keep of its reference before it may be registered.

A gate answers yes only to a number that is there, finite and on the right side of its limit. What
was not measured fails: a missing figure is how a broken evaluation looks from here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from common.errors import InputError, require
from common.exercises.marker import exercise
from common.results import write_json

OPS = (">=", "<=")


@dataclass(frozen=True)
class Gate:
    """One promise: ``metric op limit``; of a ratio to the reference's metric when ``relative``.

    Raises
    ------
    InputError
        For another operator, or a limit that is not finite: it would pass everything or nothing.
    """

    name: str
    metric: str
    op: Literal[">=", "<="]
    limit: float
    relative: bool = False

    def __post_init__(self) -> None:
        require(self.op in OPS, f"operator of gate {self.name}", self.op, f"must be one of {OPS}")
        require(math.isfinite(self.limit), f"limit of gate {self.name}", self.limit,
                "must be finite")  # fmt: skip


GATES = (
    Gate("ndcg", "ndcg_at_10", ">=", 0.98, relative=True),
    Gate("auc", "auc", ">=", 0.99, relative=True),
    Gate("calibration of the reactions", "ece", "<=", 0.10),
    Gate("calibration of engage", "engage_log_ratio", "<=", 0.41),
    Gate("rank agreement", "overlap_at_10", ">=", 0.60),
    Gate("ties", "tied_share", "<=", 0.05),
)
"""Limits of the student against its teacher (:class:`capstone.quality.Quality`).

0.41 is log 1.5: at most half as many hits again as promised, or the other way round.
"""


@dataclass(frozen=True)
class Outcome:
    """One gate's answer; ``value`` is what was compared with the limit, NaN when there is none."""

    gate: Gate
    value: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """All gates' answers, and the figures they were given."""

    outcomes: tuple[Outcome, ...]
    candidate: Mapping[str, float]
    reference: Mapping[str, float]
    judged: Mapping[str, str] = field(default_factory=dict)
    """What was judged, part to sha256; empty where nobody wrote it down."""

    @property
    def passed(self) -> bool:
        """Whether every gate passed; a verdict without gates has not."""
        return bool(self.outcomes) and all(outcome.passed for outcome in self.outcomes)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the gates that failed."""
        return tuple(outcome.gate.name for outcome in self.outcomes if not outcome.passed)

    def explain(self) -> str:
        """One line a gate, for a log."""
        return "\n".join(
            f"{'pass' if each.passed else 'FAIL'}  {each.gate.name}: {each.gate.metric} "
            f"{'of the reference ' if each.gate.relative else ''}{each.value:.4g} "
            f"(must be {each.gate.op} {each.gate.limit:g})"
            for each in self.outcomes
        )


@exercise(
    "7.4",
    points=5,
    title="The gate before the registry",
    hint="Every comparison with NaN is False. Which way round must the comparison be written so "
    "that this refuses? And what is the ratio to a reference of 0, or to one not measured?",
)
def judge(
    candidate: Mapping[str, float],
    reference: Mapping[str, float],
    gates: Sequence[Gate] = GATES,
) -> Verdict:
    """Compare a candidate's metrics with every gate's limit.

    For a ``relative`` gate the value is ``candidate[metric] / reference[metric]``, else
    ``candidate[metric]``. It passes if it is finite and ``value op limit`` holds, with equality.

    Parameters
    ----------
    candidate, reference
        Metric name to value. A metric that is missing, NaN or infinite fails its gate, and so
        does a relative gate whose reference is missing, not finite or not above 0.
    gates
        At least one.

    Returns
    -------
    Verdict
        One outcome a gate, in order; the value is NaN where there is none.

    Raises
    ------
    InputError
        Without gates: everything would pass.
    """
    require(len(gates) > 0, "gates", len(gates), "must be at least 1", "nothing would be checked")
    outcomes = []
    for gate in gates:
        value = candidate.get(gate.metric, math.nan)
        if gate.relative:
            base = reference.get(gate.metric, math.nan)
            value = value / base if math.isfinite(base) and base > 0 else math.nan
        right_side = value >= gate.limit if gate.op == ">=" else value <= gate.limit
        outcomes.append(Outcome(gate, float(value), bool(math.isfinite(value) and right_side)))
    return Verdict(tuple(outcomes), dict(candidate), dict(reference))


def write_verdict(verdict: Verdict, path: Path, judged: Mapping[str, str] | None = None) -> Path:
    """Write ``quality.json``: the answers, the figures, and ``passed``. NaN becomes null.

    ``judged`` names what was judged: part to sha256 (:func:`capstone.bundle.judged_parts`).
    """
    write_json(
        path,
        {
            "passed": verdict.passed,
            "gates": [
                {**asdict(each.gate), "value": _number(each.value), "passed": each.passed}
                for each in verdict.outcomes
            ],
            "candidate": {name: _number(value) for name, value in verdict.candidate.items()},
            "reference": {name: _number(value) for name, value in verdict.reference.items()},
            "judged": dict(judged or {}),
        },
    )
    return path


def read_verdict(path: Path, expected: Sequence[Gate] = GATES) -> Verdict:
    """Read ``quality.json`` and judge its figures again.

    What the file says of itself is not believed: an edited ``"passed": true`` changes nothing.

    Raises
    ------
    InputError
        For a file that is absent, damaged, by other gates than ``expected``, or whose answers are
        not those of its figures.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        gates = [
            Gate(**{key: row[key] for key in Gate.__dataclass_fields__}) for row in content["gates"]
        ]
        figures = [
            {name: math.nan if value is None else float(value) for name, value in side.items()}
            for side in (content["candidate"], content["reference"])
        ]
        stated = [bool(row["passed"]) for row in content["gates"]]
        judged = {str(part): str(digest) for part, digest in content.get("judged", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no verdict ({error}); judge the bundle again") from error
    verdict = judge(figures[0], figures[1], gates)
    if tuple(gates) != tuple(expected):
        raise InputError(f"{path} was judged by other gates than these; judge the bundle again")
    found = [outcome.passed for outcome in verdict.outcomes]
    if stated != found or bool(content.get("passed")) != verdict.passed:
        raise InputError(
            f"{path} says {stated}, its figures say {found}; it was edited: judge the bundle again"
        )
    return replace(verdict, judged=judged)


@dataclass(frozen=True)
class Promotion:
    """What the fairness gate said of a bundle, and of what (``bundle.served_parts``)."""

    promote: bool
    text: str
    judged: Mapping[str, str]


def write_promotion(found: Promotion, path: Path) -> Path:
    """Write ``fairness_gate.json``."""
    write_json(path, asdict(found) | {"judged": dict(found.judged)})
    return path


def read_promotion(path: Path) -> Promotion:
    """Read ``fairness_gate.json``.

    Raises
    ------
    InputError
        For a file that is absent or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Promotion(content["promote"] is True, content["text"], dict(content["judged"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no verdict ({error}); audit the bundle again") from error


def _number(value: float) -> Any:
    return value if math.isfinite(value) else None
