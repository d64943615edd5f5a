"""The memo says what the analysis found, in words, and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from labs.lab6_online_eval.analyze import Analysis, analyze
from labs.lab6_online_eval.memo import (
    headline,
    memo_of,
    percent,
    render_html,
    render_markdown,
    write_memo,
)
from labs.lab6_online_eval.ship_rule import Decision
from tests.lab6_online_eval.logs import experiment, write_log


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("shipped")
    write_log(folder)
    return analyze(experiment(), folder)


def decided(analysis: Analysis, decision: Decision, **changes: tuple[str, ...]) -> str:
    """The headline if the ship rule had decided otherwise."""
    (arm,) = analysis.arms
    ruling = replace(arm.ruling, decision=decision, **changes)
    return headline(analysis, replace(arm, ruling=ruling))


def test_the_first_sentence_is_the_decision_with_its_interval(shipped: Analysis) -> None:
    """Who reads one line knows what to do, how much it is worth, and how sure that is."""
    text = render_markdown(memo_of(shipped))
    first = text.splitlines()[2]
    clicks = shipped.arms[0].results[0].relative
    assert clicks is not None
    low, high = clicks.interval
    assert first.startswith("> **Ship treatment: clicks rose by ")
    assert f"{100 * clicks.estimate:.1f} % ({percent(low)} to {percent(high)})" in first
    assert first.endswith("both guardrails held.**")


def test_each_decision_has_its_own_sentence(shipped: Analysis) -> None:
    """The four decisions, and a stop for want of an effect told from a stop for harm."""
    nothing: dict[str, tuple[str, ...]] = {"better": (), "worse": ()}
    assert decided(shipped, Decision.STOP, **nothing) == (
        "Do not ship treatment: no improvement of clicks or clicks per session is shown."
    )
    assert decided(shipped, Decision.EXTEND, **nothing).startswith(
        "Go on with treatment to the next look: no improvement"
    )
    assert "which is a loss" in decided(shipped, Decision.STOP, better=(), worse=("clicks",))
    assert decided(shipped, Decision.REFUSE, reasons=("the arms differ",)) == (
        "No decision on treatment: the arms differ."
    )


def test_every_part_a_reader_needs_is_there(shipped: Analysis) -> None:
    """Expected, found, harm, health, what nobody looked at, and the numbers: in this order."""
    text = render_markdown(memo_of(shipped))
    assert re.findall(r"^## (.*)$", text, flags=re.M) == [
        "What was expected", "What was found", "Did anything get worse",
        "Can the data be trusted", "What was not looked at", "Appendix: the numbers",
    ]  # fmt: skip
    for wanted in (
        "A better list gets more clicks.",
        "at least one of clicks and clicks per session must improve",
        "p90 latency (10 %) and hides (30 %)",
        "| control | 700 | 700.0 |",
        "Looked for and not found: exposures of unknown experiments",
        "| clicks | mean | ",
        "cuped_from_sums",
    ):
        assert wanted in text, wanted
    assert not re.search(r"\| None|None,|\bnan\b|\binf\b", text)


def test_a_mismatch_is_the_headline_and_there_are_no_metrics(tmp_path: Path) -> None:
    """A memo without numbers, since there are none to be trusted; the counts are shown."""
    write_log(tmp_path, sizes=(300, 200))
    text = render_markdown(memo_of(analyze(experiment(), tmp_path)))
    assert "> **No decision on treatment: sample ratio mismatch" in text
    assert "Nothing: no metric was computed." in text
    assert "No guardrail was tested." in text
    assert "| control | 300 | 250.0 |" in text
    assert "Something removed units from one of them" in text


def test_the_page_needs_no_other_file_and_shows_names_as_text(
    shipped: Analysis, tmp_path: Path
) -> None:
    """It is sent by mail and opened in two years: no link to a style, script or picture."""
    named = replace(
        shipped, experiment=replace(shipped.experiment, owner="<script>alert(1)</script>")
    )
    markdown, html = write_memo(named, tmp_path / "memo")
    page = html.read_text(encoding="utf-8")
    assert markdown.read_text(encoding="utf-8").startswith("# Decision: new-list\n")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("data:image/png;base64,") == 1
    assert "Ship treatment: clicks rose by" in page


def test_a_page_without_a_picture_is_whole(shipped: Analysis) -> None:
    """The picture is an extra: all that it shows stands in the tables."""
    page = render_html(memo_of(shipped))
    assert "<img" not in page
    assert page.rstrip().endswith("</html>")


def test_a_bar_of_a_guardrail_ends_where_it_is_judged(shipped: Analysis) -> None:
    """One-sided bound and margin, so that "held" and "out of the red" are the same."""
    from labs.lab6_online_eval.figures_analysis import Bar

    (arm,) = shipped.arms
    result, guardrail = arm.results[3], arm.guardrails[0]
    bar = Bar.of(result, guardrail, 0.05)
    assert bar.edge == pytest.approx(0.1)
    assert bar.ends[1] == guardrail.bound
    assert result.relative is not None
    assert bar.ends[0] == result.relative.interval[0]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0537, "+5.4 %"), (-0.2, "-20.0 %"), (-0.0001, "0.0 %")]
)
def test_a_change_has_a_sign_and_a_zero_has_none(value: float, text: str) -> None:
    assert percent(value) == text
