"""Pass, fail, or not enough data; and what each does to a promotion."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from capstone import fairness_audit as audits
from capstone.fairness_gate import Policy, Rule, gate, quantities, read_policy
from common.errors import InputError


def audit(low: float, high: float, gap: tuple[float, float] = (0.0, 0.05)) -> Any:
    """An audit whose small creators have this interval, and whose genders have this gap."""
    values = [SimpleNamespace(group="F", n_counted=273), SimpleNamespace(group="M", n_counted=670)]
    gaps = {
        name: SimpleNamespace(
            gap=SimpleNamespace(difference=sum(gap) / 2, difference_ci95=gap),
            report=SimpleNamespace(groups=values),
        )
        for name in ("gender", "age_group", "activity", "history")
    }
    nothing = np.zeros(audits.N_SIZES)
    middle = (low + high) / 2
    creators = audits.CreatorExposure(
        0.2, (0.1, 0.3), 0.2, 0.2, middle, (low, high), 1.0, (0.9, 1.1),
        nothing, nothing, nothing, 943, 150,
    )  # fmt: skip
    return audits.Audit(np.zeros(943), gaps, creators)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "verdict", "promote"),
    [
        (0.85, 0.95, "pass", True),
        (0.60, 0.70, "fail", False),
        (0.75, 0.85, "not enough data", False),
    ],
)
def test_the_interval_decides_and_not_the_estimate(
    low: float, high: float, verdict: str, promote: bool
) -> None:
    """Bound .8: above it, below it, and on both sides; the shipped policy blocks the last two."""
    report = gate(audit(low, high), read_policy())
    assert (report.verdict, report.promote) == (verdict, promote)
    blocking = [result.rule.name for result in report.results if result.blocks]
    assert blocking == ([] if promote else ["small creators are seen"])
    assert report.text.endswith("may be promoted" if promote else "promotion blocked")


def test_an_undecided_rule_that_only_warns_lets_a_bundle_pass() -> None:
    """Four age groups of this many people rarely decide; a gate that always blocks is removed."""
    report = gate(audit(0.9, 1.0, gap=(0.0, 0.11)), read_policy())
    found = {result.rule.name: result for result in report.results}
    assert found["ages"].verdict == "not enough data"
    assert not found["ages"].blocks
    assert found["women and men"].blocks
    assert gate(audit(0.9, 1.0, gap=(0.13, 0.2)), read_policy()).verdict == "fail"


def test_too_few_people_never_pass() -> None:
    """A narrow interval of thirty people is luck."""
    rule = Rule("x", "ndcg_gap.gender", "at_most", 0.08, 300, "block", "because")
    report = gate(audit(0.9, 1.0), Policy("p", (rule,)))
    assert report.verdict == "not enough data"
    assert not report.promote


def test_the_shipped_policy_asks_for_what_the_audit_has() -> None:
    """Every rule finds its quantity, and every quantity has a rule."""
    asked = [rule.quantity for rule in read_policy().rules]
    assert sorted(asked) == sorted(quantities(audit(0.9, 1.0)))
    with pytest.raises(InputError, match=r"no quantity 'ndcg_gap\.zodiac'"):
        rule = Rule("x", "ndcg_gap.zodiac", "at_most", 0.1, 10, "warn", "because")
        gate(audit(0.9, 1.0), Policy("p", (rule,)))


GOOD = """title = "t"
[[rules]]
name = "n"
quantity = "ndcg_gap.gender"
direction = "at_most"
bound = 0.1
min_rows = 10
undecided = "block"
reason = "r"
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bound = 0.1", 'bound = "0.1"', "bound = '0.1' must be a number"),
        ("bound = 0.1", "bound = nan", "bound = nan"),
        ("at_most", "below", "direction = 'below'"),
        ("min_rows = 10", "min_rows = 0", "min_rows = 0"),
        ('"block"', '"ignore"', "undecided = 'ignore'"),
        ("undecided", "undecidd", "unknown key 'undecidd'"),
        ('reason = "r"', "", "missing key 'reason'"),
        ('title = "t"', "", "missing key 'title'"),
        ("[[rules]]", "[rules]", "rules must hold at least one"),
        ('title = "t"', "title = ", "is no TOML"),
    ],
)
def test_a_policy_that_is_not_clear_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    """A misspelt rule that silently took a default is a promise nobody made."""
    path = tmp_path / "policy.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert read_policy(path).rules[0].bound == 0.1
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_policy(path)


def test_a_policy_that_is_not_there_or_says_a_thing_twice_is_refused(tmp_path: Path) -> None:
    """A gate without a policy must not be open."""
    with pytest.raises(InputError, match="No such file"):
        read_policy(tmp_path / "none.toml")
    path = tmp_path / "policy.toml"
    path.write_text(GOOD + GOOD.removeprefix('title = "t"\n'), encoding="utf-8")
    with pytest.raises(InputError, match="must be distinct"):
        read_policy(path)
