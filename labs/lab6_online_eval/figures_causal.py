"""Figures of causal inference: the judge, balance, overlap, and four quasi-experiments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from labs.lab6_online_eval.causal_estimate import Estimate
    from labs.lab6_online_eval.observational_study import ObservationalStudy
    from labs.lab6_online_eval.quasi_experiments import QuasiExperiments

GREY, BLUE, ORANGE, GREEN, BLACK = "#718096", "#2b6cb0", "#c05621", "#2f855a", "#1a202c"
PURPLE = "#6b46c1"
BINS = 20

LABELS = {
    "naive": "naive comparison",
    "did": "difference in differences",
    "did_with_covariates": "the same, with covariates",
    "matching": "matching, replaced, caliper",
    "matching_without_replacement": "matching, each control once",
    "matching_bias_corrected": "matching, bias corrected",
    "regression": "regression",
    "ipw": "inverse propensity (Hajek)",
    "aipw": "doubly robust (AIPW)",
    "entropy_balancing": "entropy balancing",
}


def all_figures(study: ObservationalStudy) -> Iterator[tuple[str, Figure, str]]:
    """Name, figure and caption of each figure of job training."""
    yield (
        "nsw_estimators",
        draw_estimators(study),
        "Job training with survey controls: every estimator's effect on the treated with its 95 % "
        "interval, beside the randomised answer (band). The naive comparison has its own scale.",
    )
    yield (
        "nsw_balance",
        draw_balance(study),
        "Standardised mean differences of treated and controls, and propensities of both: few of "
        "the 15,992 controls resemble the treated.",
    )


def quasi_figures(study: QuasiExperiments) -> Iterator[tuple[str, Figure, str]]:
    """Name, figure and caption of each figure of the quasi-experiments."""
    yield (
        "encouragement",
        draw_encouragement(study),
        "An invitation to the new ranker (95 % intervals), and the real voucher with 100 simulated "
        "outcomes (a bar each): instruments find the truth (dashed), comparisons by choice do not.",
    )
    yield (
        "discontinuity",
        draw_discontinuity(study),
        "A launch rule: mean clicks by score with the local fits, and the jump at the cutoff "
        "beside placebo cutoffs. Simulated.",
    )
    yield (
        "rollout",
        draw_rollout(study),
        "A rollout in three waves whose effect grows: effects by wave and period against the one "
        "coefficient of two-way fixed effects. Simulated.",
    )
    yield (
        "uplift",
        draw_uplift(study),
        "Gain from treating the top of each learner's ranking, by the known effects, and Qini "
        "coefficients as measured (95 % intervals). Simulated.",
    )


def draw_estimators(study: ObservationalStudy) -> Figure:
    """Forest plot of all estimators; the naive one in a panel of its own scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 2.4], sharey=True)
    names = [name for name in LABELS if name in study.estimates]
    rows = len(names) + 1
    for axes in (left, right):
        axes.axvspan(*study.experiment.ci95, color=GREEN, alpha=0.12)
        axes.axvline(study.experiment.effect, color=GREEN, linewidth=1)
        _interval(axes, study.experiment, rows - 1, GREEN)
        axes.axvline(0, color=BLACK, linewidth=0.6)
    for row, name in enumerate(reversed(names)):
        each = study.estimates[name]
        held = each.covers(study.experiment.effect)
        axes = left if name == "naive" else right
        _interval(axes, each, row, BLUE if held else ORANGE)
    left.set(xlim=(-10_500, -6500), xlabel="USD a year")
    right.set(xlim=(-1800, 5200), xlabel="effect on earnings of 1978 (USD)")
    left.set_yticks(range(rows), [*(LABELS[name] for name in reversed(names)), "the experiment"])
    left.set_ylim(-0.6, rows - 0.4)
    _quiet(left, right)
    return figure


def draw_balance(study: ObservationalStudy) -> Figure:
    """Left: standardised differences before and after weighting. Right: overlap."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    order = np.argsort(np.abs(study.before))
    places = np.arange(len(order))
    left.axvspan(-0.1, 0.1, color=GREY, alpha=0.15, label="within 0.1")
    left.plot(study.before[order], places, "o", color=ORANGE, label="unweighted")
    left.plot(study.after[order], places, "D", color=BLUE, markersize=4, label="ATT weights")
    left.set_yticks(places, [study.names[place] for place in order], fontsize=8)
    left.set(xlabel="standardised mean difference")
    left.legend(frameon=False, fontsize=8, loc="lower right")
    edges = np.linspace(0, 1, 26)
    for arm, colour, label in ((False, GREY, "CPS controls"), (True, BLUE, "treated")):
        right.hist(
            study.score[study.treated == arm], edges, histtype="step", color=colour, label=label,
            linewidth=1.5,
        )  # fmt: skip
    right.set(yscale="log", xlabel="propensity score", ylabel="people")
    right.set_title(
        f"controls worth {study.overlap.effective_control:.0f} of {int((~study.treated).sum()):,}",
        fontsize=10,
    )
    right.legend(frameon=False, fontsize=8)
    _quiet(left, right)
    return figure


def draw_encouragement(study: QuasiExperiments) -> Figure:
    """Instruments beside the comparisons by choice, in the lab's world and with the voucher."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    found = study.invited.found
    rows = [
        ("per protocol", found.per_protocol, ORANGE),
        ("as treated", found.as_treated, ORANGE),
        ("invited (ITT)", found.itt, GREY),
        ("on those who accept (CACE)", found.cace, BLUE),
    ]
    for row, (_, each, colour) in enumerate(rows):
        _interval(left, each, row, colour)
    left.axvline(study.invited.true_cace, color=BLUE, linestyle="--", linewidth=1)
    left.axvline(study.invited.true_itt, color=GREY, linestyle="--", linewidth=1)
    left.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    left.set(xlabel="clicks a session", ylim=(-0.6, len(rows) - 0.4), xlim=(0, None))
    left.set_title("Invited to the new ranker", fontsize=10)
    voucher = study.voucher
    for row, (estimates, colour) in enumerate(
        ((voucher.as_treated, ORANGE), (voucher.two_stage, BLUE))
    ):
        effects = [each.effect for each in estimates]
        right.plot(effects, [row] * len(effects), "|", color=colour, markersize=14, alpha=0.5)
    right.axvline(voucher.truth, color=BLUE, linestyle="--", linewidth=1)
    right.set_yticks([0, 1], ["as treated", "two-stage\nleast squares"])
    right.set(xlabel="simulated purchases", ylim=(-0.6, 1.6), xlim=(0, None))
    right.set_title(
        f"Voucher: {voucher.learned_without:.0%} fetch without, {voucher.learned_with:.0%} with",
        fontsize=10,
    )
    _quiet(left, right)
    return figure


def draw_discontinuity(study: QuasiExperiments) -> Figure:
    """Left: binned means and local fits. Right: the jump, and placebo jumps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    launch = study.launch
    data, h = launch.data, launch.found.bandwidth
    for side, colour in ((~data.treated, GREY), (data.treated, BLUE)):
        s, y = data.score[side], data.outcome[side]
        edges = np.quantile(s, np.linspace(0, 1, BINS + 1))
        number = np.clip(np.searchsorted(edges, s, side="right") - 1, 0, BINS - 1)
        count = np.bincount(number, minlength=BINS)
        left.plot(
            np.bincount(number, s, BINS) / count, np.bincount(number, y, BINS) / count, "o",
            color=colour, markersize=4,
        )  # fmt: skip
        near = np.abs(s - data.cutoff) < h
        weight = np.sqrt(1 - np.abs(s[near] - data.cutoff) / h)
        line = np.polyfit(s[near] - data.cutoff, y[near], 1, w=weight)
        end = data.cutoff + (h if colour == BLUE else -h)
        ends = np.array([data.cutoff, end])
        left.plot(ends, np.polyval(line, ends - data.cutoff), color=BLACK, linewidth=1.6)
    left.axvline(data.cutoff, color=ORANGE, linestyle="--", linewidth=1)
    left.set(xlabel="score", ylabel="clicks a session")
    left.set_title(f"bandwidth {h:.3f}, {launch.found.n_used:,} users", fontsize=10)
    for place, each in launch.placebos:
        _interval(right, each, place, GREY, upright=True)
    _interval(right, launch.found.robust, data.cutoff, BLUE, upright=True)
    right.axhline(0, color=BLACK, linewidth=0.6)
    right.plot([data.cutoff], [data.effect], "_", color=ORANGE, markersize=16, label="truth")
    right.set(xlabel="cutoff", ylabel="robust jump, 95 %")
    right.set_title("the real cutoff and placebos", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    _quiet(left, right)
    return figure


def draw_rollout(study: QuasiExperiments) -> Figure:
    """Effects of each wave by period, their mean, and the one coefficient."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    found = study.rollout
    cohorts = np.unique(found.group_time.cohort)
    for cohort, colour in zip(cohorts, (BLUE, GREEN, PURPLE), strict=True):
        mine = found.group_time.cohort == cohort
        axes.plot(
            found.group_time.period[mine], found.group_time.effect[mine], marker="o", markersize=3,
            color=colour, label=f"wave of period {cohort}",
        )  # fmt: skip
    axes.axhline(found.truth, color=BLACK, linewidth=1, label=f"true mean {found.truth:.2f}")
    axes.axhline(
        found.two_way, color=ORANGE, linestyle="--",
        label=f"two-way fixed effects {found.two_way:.2f}",
    )  # fmt: skip
    axes.set(xlabel="period", ylabel="effect", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    _quiet(axes)
    return figure


def draw_uplift(study: QuasiExperiments) -> Figure:
    """Left: true gain against the share treated. Right: measured and true Qini coefficients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    uplift = study.uplift
    colours = dict(zip(uplift.learners, (ORANGE, PURPLE, BLUE, GREEN), strict=True))
    left.plot(uplift.oracle.share, uplift.oracle.gain, color=BLACK, label="oracle")
    for name, found in uplift.learners.items():
        label = name.replace("_learner", "-learner").replace("dr", "DR")
        left.plot(
            found.true.share, found.true.gain, color=colours[name],
            label=label[0].upper() + label[1:], linewidth=1.2,
        )  # fmt: skip
    by_outcome = uplift.by_outcome
    left.plot(by_outcome.share, by_outcome.gain, color=GREY, label="by expected outcome")
    left.plot([0, 1], [0, uplift.oracle.gain[-1]], color=GREY, linestyle=":", label="random")
    left.set(xlabel="share treated, best first", ylabel="gain a person (known effects)")
    left.legend(frameon=False, fontsize=8)
    for row, (name, found) in enumerate(uplift.learners.items()):
        right.plot(found.ci95, (row, row), color=colours[name], linewidth=2)
        right.plot([found.measured.coefficient], [row], "o", color=colours[name])
        right.plot([found.true.coefficient], [row], "|", color=BLACK, markersize=14)
    right.axvline(uplift.oracle.coefficient, color=BLACK, linestyle="--", linewidth=1)
    right.axvline(0, color=GREY, linewidth=0.8)
    right.set_yticks(range(len(colours)), [n.replace("_learner", "").upper() for n in colours])
    right.set(xlabel="Qini coefficient: measured (dot), true (bar), oracle (dashed)")
    right.set_ylim(-0.6, len(colours) - 0.4)
    _quiet(left, right)
    return figure


def _interval(
    axes: Axes, each: Estimate, place: float, colour: str, *, upright: bool = False
) -> None:
    ends, point, where = list(each.ci95), [each.effect], [place, place]
    if upright:
        axes.plot(where, ends, color=colour, linewidth=2)
        axes.plot([place], point, "o", color=colour, markersize=5)
    else:
        axes.plot(ends, where, color=colour, linewidth=2)
        axes.plot(point, [place], "o", color=colour, markersize=5)


def _quiet(*axes: Axes) -> None:
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
