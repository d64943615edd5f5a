from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from labs.lab6_online_eval import ship_rule
from labs.lab6_online_eval.guardrails import GuardrailResult, Verdict

CLEAR = ship_rule.SuccessResult("clicks", 0.04, 0.001)
NOTHING = ship_rule.SuccessResult("sessions", 0.002, 0.6)


def guardrail(name: str, p: float, p_harm: float | None = None) -> GuardrailResult:
    p_harm = 1 - p if p_harm is None else p_harm
    verdict = Verdict.SAFE if p < 0.05 else Verdict.UNDECIDED
    return GuardrailResult(name, 0.0, 0.01, 0.05, p, p_harm, verdict, 0.9, 0.9, False)


SAFE, UNDECIDED, HARMED = guardrail("latency", 0.01), guardrail("errors", 0.3), guardrail("h", 0.99)


def ruling(
    success: list[ship_rule.SuccessResult],
    guardrails: list[GuardrailResult],
    failed: tuple[str, ...] = (),
    looks_left: bool = False,
) -> str:
    found = ship_rule.decide(success, guardrails, failed_checks=failed, looks_left=looks_left)
    return str(found.decision)


@pytest.mark.exercise("6.15")
def test_one_better_metric_and_all_guardrails_safe_ships() -> None:
    """The only way to ship; a harmless metric beside the better one does not matter."""
    found = ruling([CLEAR, NOTHING], [SAFE, guardrail("hides", 0.04)])
    assert found == "ship", f"{found} must be ship: one better, guardrails at p .01 and .04"


@pytest.mark.exercise("6.15")
def test_every_guardrail_must_pass_at_alpha_itself() -> None:
    """Three guardrails at p .01, .01 and .1: the third is not shown to be safe, and no number of
    guardrails makes .1 small. Three at .03 each are safe: Bonferroni would refuse them for nothing.
    """
    refused = ruling([CLEAR], [SAFE, guardrail("a", 0.01), guardrail("b", 0.1)])
    assert refused == "stop", f"{refused} must be stop: a guardrail has p 0.1"
    passed = ruling([CLEAR], [guardrail(name, 0.03) for name in "abc"])
    assert passed == "ship", f"{passed} must be ship: all three have p 0.03"


@pytest.mark.exercise("6.15")
def test_success_metrics_are_corrected_because_one_is_enough() -> None:
    """The best of four at p = .03 is what chance gives in one of nine A/A experiments."""
    tried = [ship_rule.SuccessResult(f"m{i}", 0.01, p) for i, p in enumerate((0.03, 0.4, 0.7, 0.9))]
    found = ruling(tried, [SAFE])
    assert found == "stop", f"{found} must be stop: Holm makes 0.03 of four metrics 0.12"
    alone = ruling(tried[:1], [SAFE])
    assert alone == "ship", f"{alone} must be ship: one metric at 0.03"


@pytest.mark.exercise("6.15")
def test_a_success_metric_that_is_worse_stops_even_beside_a_better_one() -> None:
    """Clicks up and sessions down is a trade, not an improvement; p .03 of harm is not corrected
    away."""
    worse = ship_rule.SuccessResult("minutes", -0.02, 0.03)
    found = ruling([CLEAR, NOTHING, worse], [SAFE], looks_left=True)
    assert found == "stop", f"{found} must be stop: a success metric is worse at p 0.03"
    slower = ship_rule.SuccessResult("time to first click", 0.02, 0.03, higher_is_better=False)
    found = ruling([CLEAR, slower], [SAFE], looks_left=True)
    assert found == "stop", f"{found} must be stop: higher is worse for this metric"


@pytest.mark.exercise("6.15")
@pytest.mark.parametrize(
    ("success", "guardrails", "failed", "looks_left", "decision"),
    [
        ([CLEAR], [HARMED], ("sample ratio mismatch",), True, "refuse"),
        ([CLEAR], [SAFE], ("sample ratio mismatch",), False, "refuse"),
        ([CLEAR], [SAFE, HARMED], (), True, "stop"),
        ([CLEAR], [SAFE], (), True, "ship"),
        ([CLEAR], [], (), False, "ship"),
        ([NOTHING], [SAFE], (), True, "extend"),
        ([CLEAR], [UNDECIDED], (), True, "extend"),
        ([NOTHING], [UNDECIDED], (), True, "extend"),
        ([NOTHING], [SAFE], (), False, "stop"),
        ([CLEAR], [UNDECIDED], (), False, "stop"),
    ],
)
def test_every_row_of_the_table(
    success: list[ship_rule.SuccessResult],
    guardrails: list[GuardrailResult],
    failed: tuple[str, ...],
    looks_left: bool,
    decision: str,
) -> None:
    """The rule was written before the run; the program follows it row by row, and says why."""
    found = ship_rule.decide(success, guardrails, failed_checks=failed, looks_left=looks_left)
    assert found.decision == decision, f"{found.decision} must be {decision}: {found.reasons}"
    assert found.reasons, f"a {found.decision} without a reason"


def test_reasons_name_the_metrics() -> None:
    """A product manager reads the sentence, not the p-values."""
    found = ship_rule.decide([NOTHING], [SAFE, UNDECIDED])
    assert found.reasons[0] == "no success metric is significantly better"
    assert found.reasons[1].startswith("errors: not shown to be safe")
    assert ship_rule.decide([CLEAR, NOTHING], []).better == ("clicks",)


def test_holm_agrees_with_statsmodels() -> None:
    """Random p-values, ties included."""
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 12):
        p = np.round(rng.random(size) ** 2, 2)
        expected = multipletests(p, method="holm")[1]
        assert ship_rule.holm_adjusted(list(p)) == pytest.approx(expected, abs=1e-12)


def test_no_success_metric_or_a_p_that_is_none_is_refused() -> None:
    """An experiment that cannot win is not an experiment."""
    with pytest.raises(InputError, match="success metrics"):
        ship_rule.decide([], [SAFE])
    with pytest.raises(InputError, match="p = nan"):
        ship_rule.SuccessResult("clicks", 0.1, float("nan"))
