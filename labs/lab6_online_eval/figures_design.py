"""Figures of experiment design: what a length finds, power, variance, and interference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from labs.lab6_online_eval.design_study import DesignStudy

GREY, BLUE, ORANGE, GREEN, BLACK = "#718096", "#2b6cb0", "#c05621", "#2f855a", "#1a202c"


def draw_duration(study: DesignStudy) -> Figure:
    """Left: the lift that each length finds. Right: the distinct units behind it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    curve = study.plan_cuped.curve
    weeks = [point.weeks for point in curve]
    plain = np.array([100 * point.lift_plain for point in curve])
    lines = (
        (plain[0] / np.sqrt(weeks), GREY, ":", "if it fell as 1/sqrt(weeks)"),
        (plain, ORANGE, "-", "clicks a unit"),
        ([100 * point.lift_cuped for point in curve], BLUE, "-", "clicks a unit, CUPED"),
        (
            [100 * point.lift_cuped for point in study.plan_ratio.curve],
            GREEN,
            "-",
            "clicks a session, CUPED",
        ),
    )
    for values, colour, style, label in lines:
        left.plot(weeks, values, style, color=colour, marker="o", markersize=3, label=label)
    left.axhline(100 * study.lift, color=BLACK, linewidth=1, linestyle="--", label="wanted lift")
    left.set(xlabel="weeks", ylabel="smallest lift found with 80 % power (%)", ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    right.bar(weeks, [point.units for point in curve], color=BLUE, width=0.6)
    right.set(xlabel="weeks", ylabel="distinct units that came", ylim=(0, None))
    _quiet(left, right)
    return figure


def draw_power(study: DesignStudy) -> Figure:
    """Left: power by formula and by simulation. Right: what small pilots promise and get."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, check in enumerate((study.plain, study.cuped)):
        low, high = check.simulated.ci95
        left.bar(place - 0.18, check.formula, 0.32, color=GREY, label="formula")
        left.bar(place + 0.18, check.simulated.power, 0.32, color=BLUE, label="simulated")
        left.plot([place + 0.18] * 2, [low, high], color=BLACK, linewidth=1.5)
    left.set_xticks([0, 1], ["without CUPED", "with CUPED"])
    left.set(ylabel=f"power, {study.plain.n_units:,} units", ylim=(0, 1.1))
    handles, labels = left.get_legend_handles_labels()
    left.legend(handles[:2], labels[:2], frameon=False, fontsize=8, loc="upper left")
    pilot = study.pilot
    right.hist(pilot.real_power, bins=np.linspace(0, 1, 26).tolist(), color=ORANGE)
    right.axvline(pilot.promised, color=BLACK, linestyle="--", label="promised")
    right.set(
        xlabel="power that the planned size really has", xlim=(0, 1),
        ylabel=f"pilots of {pilot.n_pilot} heavy-tailed units",
    )  # fmt: skip
    right.legend(frameon=False, fontsize=8)
    _quiet(left, right)
    return figure


def draw_variance(study: DesignStudy) -> Figure:
    """Left: CUPED's gain by length of the past. Right: what each design leaves of the variance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in (("mean rating", BLUE), ("next rating is five", ORANGE)):
        gains = [gain for gain in study.past if gain.metric == name]
        left.plot(
            [gain.length for gain in gains],
            [100 * gain.variance_reduction for gain in gains],
            "o-",
            color=colour,
            label=name,
        )
    left.set(xlabel="ratings before the start", ylabel="variance removed (%)", ylim=(0, None))
    left.set_xscale("log")
    ticks = sorted({gain.length for gain in study.past})
    left.set_xticks(ticks, [str(tick) for tick in ticks])
    left.minorticks_off()
    left.legend(frameon=False, fontsize=8)
    designs = study.designs
    bars = (
        ("no adjustment", 1.0),
        ("post-stratified", designs.post_stratified),
        ("CUPED, strata as dummies", designs.cuped_dummies),
        ("stratified assignment", designs.stratified_assignment),
        ("CUPED, the covariate itself", designs.cuped_continuous),
    )
    right.barh([name for name, _ in bars], [100 * share for _, share in bars], color=BLUE)
    right.axvline(100 * (1 - designs.between_share), color=BLACK, linestyle="--", linewidth=1)
    right.invert_yaxis()
    right.set(xlabel="variance left (%); dashed: the share within strata", xlim=(0, 105))
    _quiet(left, right)
    return figure


def draw_interference(study: DesignStudy) -> Figure:
    """Left: three estimates of one effect. Right: bias against spread of switchback blocks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    found = study.interference
    rows = (
        ("users", found.user_mean, found.user_sd, ORANGE),
        ("clusters", found.cluster_mean, found.cluster_sd, BLUE),
    )
    for place, (_, mean, sd, colour) in enumerate(rows):
        left.errorbar(mean, place, xerr=1.96 * sd, fmt="o", color=colour, capsize=4)
    left.axvline(found.true_effect, color=BLACK, linestyle="--", label="everybody against nobody")
    left.axvline(0, color=GREY, linewidth=0.8)
    left.set_yticks([0, 1], [f"randomised by\n{name}" for name, *_ in rows])
    left.set(xlabel="effect on items a user: mean and 95 % of experiments", ylim=(-0.6, 1.9))
    left.legend(frameon=False, fontsize=8, loc="upper right")
    plain = [block for block in study.blocks if block.burn_in == 0]
    lengths = [block.block_length for block in plain]
    for name, colour, title in (
        ("bias", ORANGE, "bias"),
        ("sd", BLUE, "standard deviation"),
        ("rmse", BLACK, "root mean squared error"),
    ):
        right.plot(lengths, [getattr(b, name) for b in plain], "o-", color=colour, label=title)
    for number, block in enumerate(b for b in study.blocks if b.burn_in):
        label = "rmse with burn-in" if number == 0 else "_"
        right.plot(block.block_length, block.rmse, "D", color=GREEN, label=label)
        right.annotate(
            f"{block.burn_in}", (block.block_length, block.rmse), (5, 4),
            textcoords="offset points", fontsize=8, color=GREEN,
        )  # fmt: skip
    right.set_xscale("log")
    right.set_xticks(lengths, [str(length) for length in lengths])
    right.minorticks_off()
    right.set(xlabel="block length (periods)", ylabel="orders a visit", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    _quiet(left, right)
    return figure


def _quiet(*many: Axes) -> None:
    for axes in many:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
