"""What the run writes down of mitigation: every method's price, the targets, and the frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labs.lab3_fairness.report import put, slug

if TYPE_CHECKING:
    from common.runner import Run
    from labs.lab3_fairness.decisions import Outcome
    from labs.lab3_fairness.frontier import Comparison, Curve
    from labs.lab3_fairness.preprocessing import GroupLeak
    from labs.lab3_fairness.stability import Stability
    from labs.lab3_fairness.target_rules import Pursuit, ScoredRows


def outcome(run: Run, name: str, result: Outcome, how: str = "") -> None:
    """Accuracy and both gaps of one rule on the test rows, with intervals."""
    area = f"adult.{slug(name)}"
    accuracy, dp, eo = result.accuracy_ci95, result.dp_diff_ci95, result.eo_diff_ci95
    put(run, f"{area}.accuracy", result.accuracy, n=result.n, ci95=accuracy, how=how)
    put(run, f"{area}.dp_diff", result.dp_diff, "difference", n=result.n, ci95=dp, how=how)
    put(run, f"{area}.eo_diff", result.eo_diff, "difference", n=result.n, ci95=eo, how=how)
    if result.flips > 0:
        how = "chance that two runs of the rule decide differently about a person"
        put(run, f"{area}.flips", result.flips, n=result.n, how=how)


def methods(run: Run, outcomes: Mapping[str, Outcome]) -> None:
    """Every method, by all three numbers."""
    for name, result in outcomes.items():
        outcome(run, name, result)


def leak(run: Run, found: GroupLeak) -> None:
    """Removing correlation hides the group from lines, not from trees."""
    for kind in ("linear", "trees"):
        for when in ("before", "after"):
            put(run, f"leak.{kind}_{when}", getattr(found, f"{kind}_{when}"), "AUC")


def stability(run: Run, results: Sequence[Stability]) -> None:
    """What another seed changes."""
    from labs.lab3_fairness.figures_mitigation import draw_seed_spread

    for result in results:
        area, n = f"stability.{slug(result.name)}", len(result.accuracy)
        put(run, f"{area}_flips", result.flips, n=n, how="decisions that differ between two runs")
        put(run, f"{area}_dp_spread", float(result.dp_diff.std(ddof=1)), "difference", n=n)
        put(run, f"{area}_eo_spread", float(result.eo_diff.std(ddof=1)), "difference", n=n)
    run.figure(
        "seeds",
        draw_seed_spread(results),
        caption="Both gaps of every run of a method, on 8,000 training rows, and how many "
        "decisions flip from one run to the next.",
    )


def targets(run: Run, pursuits: Sequence[Pursuit], base: Outcome) -> None:
    """Each target by a rule with a coin and by two without: reached, and how often it would be.

    Of the two without a coin the one counts that did better in rehearsal, on validation rows.
    """
    for pursuit in pursuits:
        name = f"target.{pursuit.target.name}_deterministic_reached"
        chosen = pursuit.deterministic
        put(run, name, float(chosen.reached), "0 or 1", how=chosen.method.name)
        if pursuit.target.name == "dp":
            left = pursuit.programme.outcome
            how = f"DP lottery / base; its EO difference: {left.eo_diff:.3f}"
            put(run, "mitigation.dpd_ratio", left.dp_diff / base.dp_diff, how=how)
        for kind, attempt in (
            ("lottery", pursuit.programme),
            ("bands", pursuit.bands),
            ("hash", pursuit.hashed),
        ):
            name = f"{pursuit.target.name}_{kind}"
            outcome(run, name, attempt.outcome, how="chosen on out-of-fold training rows")
            how = "1: the gaps and the accuracy asked for, on the test half"
            put(run, f"target.{name}_reached", float(attempt.reached), "0 or 1", how=how)
            put(
                run,
                f"target.{name}_chance",
                attempt.rehearsal.reached,
                n=len(attempt.rehearsal.accuracy),
                how="share of rehearsals on halves of the validation rows that reach the target",
            )


def frontier(
    run: Run,
    comparisons: Sequence[Comparison],
    pursuits: Sequence[Pursuit],
    curves: tuple[Curve, Curve],
    validation: ScoredRows,
) -> None:
    """Does anything beat post-processing the best model?"""
    from labs.lab3_fairness.figures_frontier import (
        draw_decision_bands,
        draw_frontier,
        draw_group_roc,
    )

    for each in comparisons:
        name = f"frontier.gain_over_{slug(each.method.name)}"
        how = "accuracy of the programme, bounded by the method's gaps, minus the method's; paired"
        put(run, name, each.gain, "difference", ci95=each.gain_ci95, how=how)
        for gap in ("dp", "eo"):
            excess, interval = getattr(each, f"{gap}_excess"), getattr(each, f"{gap}_excess_ci95")
            name = f"frontier.{gap}_excess_over_{slug(each.method.name)}"
            how = "gap of the programme minus the method's: its bound held on validation rows"
            put(run, name, excess, "difference", ci95=interval, how=how)
    put(run, "frontier.methods", len(comparisons), "methods")
    put(run, "frontier.beaten", sum(each.beaten for each in comparisons), "methods")
    put(run, "frontier.ahead", sum(each.ahead for each in comparisons), "methods")
    attempts = [attempt for pursuit in pursuits for attempt in (pursuit.programme, pursuit.bands)]
    run.figure(
        "frontier",
        draw_frontier(comparisons, attempts, *curves),
        caption="Accuracy against each gap on Adult's test rows, with 95 % intervals: every "
        "method, the rules made for a target, and the frontier of one post-processed model.",
    )
    run.figure(
        "group_roc",
        draw_group_roc(validation, pursuits),
        caption="Each group's ROC curve and where the rule for each target puts the group. A point "
        "below its curve is a group treated worse than its scores allow.",
    )
    run.figure(
        "decision_bands",
        draw_decision_bands(validation, pursuits),
        caption="Who is accepted, by score. The line is the programme's chance, the shade the rule "
        "without a coin: equalizing error rates passes over people with high scores.",
    )
