"""The gate of the fairness audit: pass, fail, or not enough data, and whether to promote.

The policy is a file (``policies/fairness.toml``), written before the model is seen. Each rule
compares one quantity's interval with a bound, by lab 3's ``verdict``. Lab 3's own policy files are
about rates of decisions; here a quantity is a gap of means or a ratio of exposures, so the rules
differ and the verdict is the same.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capstone.fairness_audit import Audit
from common.errors import InputError, require

if TYPE_CHECKING:
    from labs.lab3_fairness.gate import Verdict

POLICY = Path(__file__).parent / "policies" / "fairness.toml"
DIRECTIONS = ("at_most", "at_least")
UNDECIDED = ("block", "warn")


@dataclass(frozen=True)
class Rule:
    """One promise about one quantity of the audit.

    Attributes
    ----------
    name
    quantity
        ``ndcg_gap.<attribute>``, ``creator_exposure.catalogue`` or ``creator_exposure.merit``.
    direction, bound
        "at_most" or "at_least" the bound, which is above 0.
    min_rows
        Users in each group, below which nothing passes; >= 1.
    undecided
        What "not enough data" does to a promotion: "block" it, or "warn" and let it pass.
    reason
        Why this bound.

    Raises
    ------
    InputError
        For a value outside its limits.
    """

    name: str
    quantity: str
    direction: str
    bound: float
    min_rows: int
    undecided: str
    reason: str

    def __post_init__(self) -> None:
        for part in ("name", "quantity", "reason"):
            value = getattr(self, part)
            require(isinstance(value, str) and bool(value), part, value, "must be text")
        require(self.direction in DIRECTIONS, "direction", self.direction, f"must be {DIRECTIONS}")
        require(self.undecided in UNDECIDED, "undecided", self.undecided, f"must be {UNDECIDED}")
        number = isinstance(self.bound, int | float) and not isinstance(self.bound, bool)
        require(number and 0 < self.bound < 1e6, "bound", self.bound, "must be a number above 0")
        whole = isinstance(self.min_rows, int) and not isinstance(self.min_rows, bool)
        require(whole and self.min_rows >= 1, "min_rows", self.min_rows, "must be an int >= 1")


@dataclass(frozen=True)
class Policy:
    """Rules that an audit must keep."""

    title: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Quantity:
    """An estimate with its interval, and the users behind it by group."""

    value: float
    low: float
    high: float
    counted: Mapping[str, int]


@dataclass(frozen=True)
class RuleResult:
    """One rule, what was found, and the verdict."""

    rule: Rule
    found: Quantity
    verdict: Verdict

    @property
    def blocks(self) -> bool:
        """Whether it forbids a promotion: a failure does, and an undecided rule that says so."""
        return self.verdict == "fail" or (self.verdict != "pass" and self.rule.undecided == "block")

    @property
    def text(self) -> str:
        sign = "<=" if self.rule.direction == "at_most" else ">="
        return (
            f"{self.verdict}: {self.rule.name}: {self.rule.quantity} = {self.found.value:.3f} "
            f"({self.found.low:.3f} to {self.found.high:.3f}), promised {sign} {self.rule.bound:g}"
        )


@dataclass(frozen=True)
class GateReport:
    """The verdicts of a policy on one audit."""

    policy: Policy
    results: tuple[RuleResult, ...]

    @property
    def verdict(self) -> Verdict:
        """Fail if any rule fails, pass if all pass, otherwise not enough data."""
        from labs.lab3_fairness.gate import Verdict

        found = {result.verdict for result in self.results}
        worst = (Verdict.FAIL, Verdict.NOT_ENOUGH_DATA)
        return next((verdict for verdict in worst if verdict in found), Verdict.PASS)

    @property
    def promote(self) -> bool:
        """Whether the audited bundle may become champion."""
        return not any(result.blocks for result in self.results)

    @property
    def text(self) -> str:
        """For a log: a line a rule, and the outcome."""
        outcome = "may be promoted" if self.promote else "promotion blocked"
        return "\n".join([*(result.text for result in self.results), outcome])


def read_policy(path: Path = POLICY) -> Policy:
    """Read and check a policy file.

    Raises
    ------
    InputError
        When it cannot be read, is no TOML, has no rule, two of one name, or a key that is unknown
        or missing: a rule that silently took a default is a promise nobody made.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"policy {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"policy {path} is no TOML: {error}") from None
    _same_keys(content, {"title", "rules"}, f"policy {path}")
    known = {field.name for field in fields(Rule)}
    listed = content["rules"]
    if not isinstance(listed, list) or not listed:
        raise InputError(f"policy {path}: rules must hold at least one; begin it with [[rules]]")
    for number, rule in enumerate(listed):
        _same_keys(rule, known, f"policy {path}: rule {number}")
    rules = tuple(Rule(**rule) for rule in listed)
    names = [rule.name for rule in rules]
    require(len(set(names)) == len(names), "names of rules", names, "must be distinct")
    return Policy(str(content["title"]), rules)


def _same_keys(content: Mapping[str, Any], known: set[str], where: str) -> None:
    if not isinstance(content, dict):
        raise InputError(f"{where} must be a table")
    for key in sorted(set(content) ^ known):
        what = "unknown" if key in content else "missing"
        raise InputError(f"{where}: {what} key {key!r}; the keys are {', '.join(sorted(known))}")


def quantities(audit: Audit) -> dict[str, Quantity]:
    """Everything a rule can be about, by name."""
    found = {
        f"ndcg_gap.{name}": Quantity(
            gap.gap.difference,
            *gap.gap.difference_ci95,
            {value.group: value.n_counted for value in gap.report.groups},
        )
        for name, gap in audit.gaps.items()
    }
    creators = audit.creators
    found["creator_exposure.catalogue"] = Quantity(
        creators.to_catalogue, *creators.to_catalogue_ci95, {"users": creators.n_users}
    )
    found["creator_exposure.merit"] = Quantity(
        creators.to_merit,
        *creators.to_merit_ci95,
        {"users whose next film is of a small creator": creators.n_merit},
    )
    return found


def gate(audit: Audit, policy: Policy) -> GateReport:
    """Judge an audit by every rule of a policy.

    Raises
    ------
    InputError
        For a rule about a quantity that the audit does not have.
    """
    from labs.lab3_fairness.gate import verdict

    known = quantities(audit)
    results = []
    for rule in policy.rules:
        if rule.quantity not in known:
            raise InputError(
                f"rule {rule.name!r}: no quantity {rule.quantity!r}; there are {', '.join(known)}"
            )
        found = known[rule.quantity]
        said = verdict(
            found.low, found.high, rule.bound, rule.direction, found.counted, rule.min_rows
        )
        results.append(RuleResult(rule, found, said))
    return GateReport(policy, tuple(results))
