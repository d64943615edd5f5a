"""Requirements to a choice: limits, doubts, and a reason in words."""

import pytest

from common.errors import InputError
from labs.lab5_distillation.decision_table import (
    Requirement,
    decide,
    to_html,
    to_markdown,
    to_rich,
)
from labs.lab5_distillation.frontier import Candidate


def candidate(name, size_mb, accuracy, half=0.005, **changes):
    """A distilled INT8 candidate (synthetic)."""
    values = {"accuracy_ci95": (accuracy - half, accuracy + half), "params": 1_000_000} | changes
    return Candidate(name, "distilled", "int8", accuracy=accuracy, size_mb=size_mb, **values)


ONE = candidate("1 layer", 14.0, 0.93, latency_ms=1.0, texts_per_s=2000.0)
TWO = candidate("2 layers", 16.0, 0.95, latency_ms=2.0, texts_per_s=1000.0)
SIX = candidate("6 layers", 24.0, 0.97, latency_ms=5.0, texts_per_s=300.0)


def test_the_smallest_that_meets_all_is_chosen():
    """The smallest of all is not accurate enough; the most accurate is not needed."""
    found = decide([SIX, ONE, TWO], Requirement(max_mb=20, min_accuracy=0.94))
    assert found.choice is TWO
    assert [row.verdict for row in found.rows] == ["misses", "misses", "meets"]
    assert "2 layers, distilled, int8 is the smallest of 1 that meet all" in found.why


def test_a_limit_inside_the_interval_is_uncertain_and_not_chosen():
    """0.93 with an interval to 0.935 may be above 0.932: named, but another is chosen."""
    found = decide([ONE, TWO, SIX], Requirement(min_accuracy=0.932))
    assert found.rows[0].verdict == "uncertain"
    assert found.choice is TWO
    assert "More seeds or texts may admit 1 layer, distilled, int8 (accuracy 0.9300" in found.why


def test_the_limit_itself_is_met():
    """At most and at least include the limit."""
    found = decide([TWO], Requirement(max_mb=16.0, max_ms=2.0, min_texts_per_s=1000.0))
    assert found.choice is TWO


def test_speed_can_decide_in_place_of_size():
    """The most texts a second, or the least latency."""
    narrow = candidate("narrow", 5.0, 0.95, latency_ms=3.0, texts_per_s=700.0)
    wanted = Requirement(min_accuracy=0.90)
    assert decide([narrow, ONE, TWO], wanted).choice is narrow
    assert decide([narrow, TWO, ONE], wanted, prefer="latency_ms").choice is ONE
    assert decide([narrow, TWO, ONE], wanted, prefer="texts_per_s").choice is ONE


def test_at_equal_size_the_more_accurate_is_chosen():
    """A distilled student and the fine-tuned one have one size."""
    worse = candidate("2 layers", 16.0, 0.945)
    assert decide([worse, TWO], Requirement(max_mb=20)).choice is TWO


def test_nothing_that_meets_all_is_no_choice_and_says_what_came_nearest():
    """The best available is no answer to a requirement that it misses."""
    found = decide([ONE, SIX], Requirement(max_mb=15, min_accuracy=0.96))
    assert found.choice is None
    assert "no candidate surely meets all; 6 layers, distilled, int8 comes nearest" in found.why
    assert "size, MB 24.0, asked ≤ 15" in found.why


def test_what_was_not_measured_is_not_met():
    """A retention that nobody measured must not pass."""
    found = decide([TWO], Requirement(min_retention=0.98))
    assert found.choice is None
    assert found.rows[0].verdict == "not measured"
    assert "retention not measured" in found.why


def test_retention_is_judged_by_its_interval():
    """0.991 with an interval from 0.986 has not been shown to be at least 0.99."""
    kept = candidate("a", 16.0, 0.95, retention=0.991, retention_ci95=(0.986, 0.996))
    assert decide([kept], Requirement(min_retention=0.99)).rows[0].verdict == "uncertain"
    assert decide([kept], Requirement(min_retention=0.98)).choice is kept
    assert decide([kept], Requirement(min_retention=0.999)).rows[0].verdict == "misses"


def test_only_what_was_asked_for_is_a_column():
    """And the chosen line is marked."""
    found = decide([ONE, TWO], Requirement(max_mb=20, min_accuracy=0.94))
    assert found.header == ("candidate", "size, MB ≤ 20", "accuracy ≥ 0.94", "verdict")
    assert [line[-1] for line in found.lines] == ["misses", "chosen"]
    assert found.lines[1][2] == "0.9500 [0.9450, 0.9550] (meets)"


def test_the_table_is_printed_in_three_ways():
    """The same cells in Markdown, in HTML (escaped) and in a terminal."""
    odd = candidate("<b>[red]", 1.0, 0.95)
    found = decide([odd, TWO], Requirement(max_mb=20))
    assert to_markdown(found).count("\n|") == 3
    assert "&lt;b&gt;[red]" in to_html(found)
    assert "<b>" not in to_html(found)
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as captured:
        console.print(to_rich(found))
    text = captured.get()
    assert "<b>[red]" in text
    assert "chosen" in text


@pytest.mark.parametrize(
    ("wanted", "word"),
    [({}, "ask for something"), ({"max_mb": 0}, "max_mb"), ({"min_accuracy": 95}, "<= 1")],
)
def test_requirements_that_ask_for_nothing_or_the_impossible_are_refused(wanted, word):
    """95 for 95 % would refuse every candidate."""
    with pytest.raises(InputError, match=word):
        Requirement(**wanted)
