"""The table a run ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.scorecard import number, show


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0"), (3, "3"), (-2.0, "-2"), (0.95, "0.95"), (0.123456, "0.1235"),
        (0.00001234, "1.234e-05"), (999.4, "999.4"), (12345.6, "12,346"),
        (10_234_567, "10,234,567"), (1e9, "1,000,000,000"), (1e300, "1e+300"), (1.5e17, "1.5e+17"),
    ],
)  # fmt: skip
def test_numbers_read_as_a_person_writes_them(value: float | None, text: str) -> None:
    assert number(value) == text


def results(**changes: Any) -> dict[str, Any]:
    def row(name: str, measured: float | None, passed: bool | None, reason: str) -> dict[str, Any]:
        return {
            "id": name, "claim": "p99 [ms] below 10", "measured": measured, "passed": passed,
            "reason": reason,
        }  # fmt: skip

    return {
        "lab": "lab2_vector_db",
        "mine": False,
        "duration_s": 81.2,
        "metrics": {
            "search.p99_ms": {"value": 2.31, "unit": "ms", "n": 1000, "ci95": [2.1, 2.5]},
            "search.recall": {"value": 0.9, "unit": "ratio"},
            "hostile.[/bold]": {"value": None, "unit": "s", "reason": "none"},
            "time.train_s": {"value": 5.0, "unit": "s"},
        },
        "deliverables": [
            row("L2.yes", 2.31, True, ""),
            row("L2.no", 12.0, False, ""),
            row("L2.open", None, None, "[/red] needs :warning: ten million"),
        ],
    } | changes


def test_everything_measured_is_shown_and_nothing_is_taken_for_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(results(), Path("/runs/x"))
    out = capsys.readouterr().out
    for part in (
        "search.p99_ms", "2.31 ms", "2.1 to 2.5", "1,000", "0.9", "hostile.[/bold]",
        "p99 [ms] below",
        "passed", "missed", "not shown", "[/red] needs :warning:", "report: /runs/x/report.html",
    ):  # fmt: skip
        assert part in out, f"{part!r} is not in the scorecard"
    assert "time.train_s" not in out
    assert "own code" not in out


def test_the_learners_own_code_is_said_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    show(results(mine=True, deliverables=[]), Path("/runs/x"))
    out = capsys.readouterr().out
    assert "This run used your own code" in out
    assert "Scorecard" not in out


@pytest.mark.parametrize("width", [120, 80, 60])
def test_a_long_name_takes_the_room_of_no_number(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its n, an interval cannot be judged; a folded name or unit can still be read."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, which has a width
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    long = {
        "value": 99.35, "unit": "% of the largest profit", "n": 30162, "ci95": [99.2315, 99.4712]
    }  # fmt: skip
    name = "lending.profit_share_of_the_rule_that_knows_no_group_at_all_in_any_of_its_thresholds"
    show(results(metrics={name: long}), Path("runs"))
    out = capsys.readouterr().out
    for shown in ("99.35 %", "profit", "99.23 to 99.47", "30,162", name[:10]):
        assert shown in out, f"{shown!r} is not in:\n{out}"
