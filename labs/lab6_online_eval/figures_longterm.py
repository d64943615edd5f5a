"""Figures of the long term: novelty, the surrogate index, and a season's launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labs.lab6_online_eval.holdback import Seasons
from labs.lab6_online_eval.novelty import Z95, NoveltyStudy
from labs.lab6_online_eval.surrogate_index import SurrogateTrial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, GREEN = "#0072B2", "#D55E00", "#666666", "#009E73"


def draw_novelty(studies: Sequence[NoveltyStudy]) -> Figure:
    """Daily effects by days since exposure, the fit with its long-run interval, and the truth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0 * len(studies), 3.8), layout="constrained")
    axes = figure.subplots(1, len(studies), sharey=True, squeeze=False)[0]
    for axis, study in zip(axes, studies, strict=True):
        daily = study.since_exposure
        t = np.arange(daily.n_days) + 0.5
        axis.errorbar(t, daily.effect, Z95 * daily.se, fmt="o", ms=3, lw=1, color=GREY)
        fine = np.linspace(0, daily.n_days, 200)
        axis.plot(fine, study.fit.curve(fine), color=BLUE, label="fit")
        axis.axhspan(*study.fit.ci95, color=BLUE, alpha=0.2, lw=0, label="long run, 95 %")
        low, high = study.first_week_ci95
        axis.fill_between([0, 7], low, high, color=ORANGE, alpha=0.35, lw=0, label="first week")
        axis.axhline(study.truth, color="black", ls="--", lw=1, label="true long run")
        axis.set_title(f"{study.name} (trend: p = {study.trend.p:.1g})", fontsize=10)
        axis.set_xlabel("days since exposure")
    axes[0].set_ylabel("effect on clicks a session")
    axes[-1].legend(fontsize=8, loc="upper right")
    return figure


def draw_clocks(study: NoveltyStudy) -> Figure:
    """One effect by both clocks: days since exposure, and days of the calendar."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axis = figure.subplots()
    for daily, trend, colour, label in (
        (study.since_exposure, study.trend, BLUE, "days since exposure"),
        (study.calendar, study.calendar_trend, ORANGE, "days of the calendar"),
    ):
        t = np.arange(daily.n_days) + 0.5
        slope = f"{label}: {trend.slope:+.4f} a day"
        axis.plot(t, daily.effect, "o-", ms=3, lw=1, color=colour, label=slope)
        axis.fill_between(
            t,
            daily.effect - Z95 * daily.se,
            daily.effect + Z95 * daily.se,
            color=colour,
            alpha=0.15,
            lw=0,
        )
    axis.axhline(study.truth, color="black", ls="--", lw=1, label="true long run")
    axis.set(xlabel="day", ylabel="effect on clicks a session")
    axis.legend(fontsize=8)
    return figure


def draw_surrogates(trials: Sequence[SurrogateTrial]) -> Figure:
    """Estimates of the index in each world beside the true long-term effect."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axis = figure.subplots()
    rng = np.random.default_rng(0)
    for row, trial in enumerate(trials):
        jitter = row + rng.uniform(-0.25, 0.25, len(trial.estimates))
        axis.plot(trial.estimates, jitter, ".", ms=4, color=BLUE, alpha=0.5)
        axis.plot([trial.truth] * 2, [row - 0.4, row + 0.4], color="black", lw=2)
        axis.plot([float(trial.estimates.mean())] * 2, [row - 0.4, row + 0.4], color=ORANGE, lw=2)
    axis.plot([], [], ".", color=BLUE, label="one experiment")
    axis.plot([], [], color="black", lw=2, label="truth")
    axis.plot([], [], color=ORANGE, lw=2, label="mean of the index")
    labels = [f"{trial.world}\ncoverage {trial.coverage:.0%}" for trial in trials]
    axis.set_yticks(range(len(trials)), labels, fontsize=9)
    axis.set_xlabel("effect on the long-term outcome")
    axis.invert_yaxis()
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_seasons(seasons: Seasons) -> Figure:
    """Each answer to what a season was worth, as a share of the truth, with its spread."""
    from matplotlib.figure import Figure

    rows = {
        "sum of the launched estimates": seasons.naive,
        "less the expected winner's curse": seasons.corrected,
        "empirical Bayes": seasons.bayes,
        "what each launch does alone": seasons.alone,
        "holdback": seasons.holdback,
    }
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axis = figure.subplots()
    scale = float(seasons.truth.mean())
    for row, (name, values) in enumerate(rows.items()):
        errors = (values - seasons.truth) / scale + 1
        low, middle, high = np.quantile(errors, [0.05, 0.5, 0.95])
        colour = GREEN if name == "holdback" else BLUE
        axis.plot([low, high], [row, row], color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
        axis.plot([middle], [row], "|", ms=14, mew=2, color=colour)
        axis.plot([float(errors.mean())], [row], "o", ms=6, color=colour)
    axis.axvline(1.0, color="black", ls="--", lw=1)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=9)
    axis.set_xlabel("share of the true cumulative effect (dot: mean, bar: 90 %)")
    axis.invert_yaxis()
    return figure
