"""Figures of bandits and of off-policy evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from labs.lab6_online_eval.bandit_study import BanditStudy
    from labs.lab6_online_eval.bandits import Played
    from labs.lab6_online_eval.open_bandit_study import Direction, OpenBanditStudy

GREY, BLUE, ORANGE, GREEN, BLACK = "#718096", "#2b6cb0", "#c05621", "#2f855a", "#1a202c"
PURPLE, RED = "#6b46c1", "#c53030"

LABELS = {
    "epsilon_greedy": ("epsilon-greedy, 0.1", ORANGE),
    "epsilon_decaying": ("epsilon-greedy, decaying", "#d69e2e"),
    "ucb1": ("UCB1", PURPLE),
    "kl_ucb": ("KL-UCB", BLUE),
    "thompson": ("Thompson", GREEN),
    "linucb": ("LinUCB", BLUE),
    "linear_thompson": ("linear Thompson", GREEN),
    "greedy": ("greedy", ORANGE),
    "no_context": ("no context", GREY),
}
ESTIMATORS = {
    "ipw": "IPW",
    "snipw": "SNIPW",
    "clipped_ipw": "clipped IPW",
    "direct": "direct",
    "doubly_robust": "doubly robust",
    "switch_dr": "switch DR",
    "dr_shrunk": "DR, shrunk",
}


def draw_regret(study: BanditStudy) -> Figure:
    """Left: regret against the logarithm of rounds, with the bound. Right: with contexts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, played in study.played.items():
        _curve(left, played, *LABELS[name])
    _curve(left, study.ab_test, f"A/B test, {study.per_arm} an arm, then commit", BLACK, "--")
    late = study.ab_test.rounds[study.ab_test.rounds >= 0.1 * study.ab_test.rounds[-1]]
    # the bound is on the slope, so its line is drawn to end where the best policy's does
    end = min(study.final_regret(name) for name in study.played)
    left.plot(
        late, end + study.lai_robbins * np.log(late / late[-1]), ":", color=BLACK, linewidth=2,
        label=f"slope of the Lai-Robbins bound, {study.lai_robbins:.1f} ln t",
    )  # fmt: skip
    left.set(xscale="log", xlabel="round", ylabel="regret (rewards)", xlim=(10, None))
    left.set_ylim(0, 1.15 * max(study.final_regret(name) for name in study.played))
    left.set_title("Five Bernoulli arms", fontsize=10)
    for name, played in study.contextual.items():
        _curve(right, played, *LABELS[name])
    for name, played in study.late.items():
        label, colour = LABELS[name]
        _curve(right, played, f"{label}, {study.delay} rounds late", colour, "--")
    top = max(float(each.mean[-1]) for each in study.late.values())
    right.set(xlabel="round", ylabel="regret (rewards)", ylim=(0, 1.6 * top))
    right.set_title("Five arms whose rewards depend on the context", fontsize=10)
    left.legend(frameon=False, fontsize=8, loc="upper left")
    right.legend(frameon=False, fontsize=8, loc="upper right")
    _quiet(left, right)
    return figure


def draw_bandit_inference(study: BanditStudy) -> Figure:
    """Left: bias of three estimators of an arm that is no better. Right: naming the best arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = {"sample_mean": "sample mean", "ipw": "IPW", "adaptive_weighted": "adaptively weighted"}
    for place, name in enumerate(names):
        found = study.of(name)
        left.errorbar(found.bias, place, xerr=1.96 * found.bias_se, fmt="o", color=BLUE, capsize=3)
        left.annotate(
            f"coverage {100 * found.coverage:.1f} %", (found.bias, place),
            xytext=(0, 9), textcoords="offset points", ha="center", fontsize=8,
        )  # fmt: skip
    left.axvline(0, color=BLACK, linewidth=1)
    left.set_yticks(range(len(names)), list(names.values()))
    left.set(xlabel="bias of an arm's mean (standard deviations of a reward)", ylim=(-0.5, 2.6))
    left.margins(x=0.25)
    left.invert_yaxis()
    shown = {"equal_shares": "equal shares", "thompson": "Thompson", "top_two": "top-two Thompson"}
    for each in study.best_arm:
        right.plot(each.regret, 100 * each.identified, "o", color=GREEN)
        right.annotate(
            shown[each.policy], (each.regret, 100 * each.identified),
            xytext=(7, -3), textcoords="offset points", fontsize=8,
        )  # fmt: skip
    right.set(
        xlabel="regret (rewards)", ylabel="names the best arm (% of runs)", xlim=(0, None),
        title=f"after {study.best_arm[0].rounds:,} rounds",
    )  # fmt: skip
    right.title.set_fontsize(10)
    right.margins(x=0.3, y=0.2)
    _quiet(left, right)
    return figure


def draw_off_policy(study: OpenBanditStudy) -> Figure:
    """Every estimate with its interval, beside what the policy's own log says; hollow: refused.

    The broad bar behind IPW is its gamma interval, for rare clicks.
    """
    from matplotlib.figure import Figure

    rows = len(study.directions) // 2
    figure = Figure(figsize=(12, 2.5 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False, sharey=True)
    for axes, direction in zip(grid.ravel(), study.directions, strict=True):
        _direction(axes, direction)
    for axes in grid[-1]:
        axes.set_xlabel("clicks per 1,000 recommendations")
    _quiet(*grid.ravel())
    return figure


def draw_rare_events(study: OpenBanditStudy) -> Figure:
    """Coverage of IPW's two intervals by effective clicks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.subplots()
    events = [each.events for each in study.coverage]
    axes.plot(
        events, [100 * each.coverage for each in study.coverage], "o-", color=ORANGE,
        label="normal interval",
    )  # fmt: skip
    axes.plot(
        events, [100 * each.gamma for each in study.coverage], "o-", color=BLUE,
        label="gamma interval",
    )  # fmt: skip
    axes.axhline(95, color=BLACK, linewidth=1)
    axes.axvspan(min(events) * 0.9, 10, color=RED, alpha=0.08)
    axes.annotate("refused", (min(events), 97), fontsize=8, color=RED)
    axes.set(
        xscale="log", xlabel="effective clicks in the log", ylabel="holds the truth (%)",
        ylim=(70, 101), xlim=(min(events) * 0.9, None),
    )  # fmt: skip
    axes.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    _quiet(axes)
    return figure


def _direction(axes: Axes, direction: Direction) -> None:
    low, high = (1000 * bound for bound in direction.truth_ci)
    axes.axvspan(low, high, color=GREEN, alpha=0.15)
    axes.axvline(1000 * direction.truth, color=GREEN, linewidth=1.2)
    limit = -2.0, 14.0
    for place, name in enumerate(ESTIMATORS):
        each = direction.estimate(name)
        colour = BLUE if each.refused is None else GREY
        ends = np.clip([1000 * each.low, 1000 * each.high], *limit)
        axes.plot(ends, [place, place], color=colour, linewidth=1.6)
        axes.plot(
            np.clip(1000 * each.value, *limit), place, "o", color=colour, markersize=5,
            markerfacecolor=colour if each.refused is None else "white",
        )  # fmt: skip
    gamma = np.clip([1000 * bound for bound in direction.ipw_gamma], *limit)
    axes.plot(gamma, [0, 0], color=BLUE, linewidth=6, alpha=0.2, solid_capstyle="butt")
    axes.set_yticks(range(len(ESTIMATORS)), list(ESTIMATORS.values()), fontsize=8)
    axes.set(ylim=(len(ESTIMATORS) - 0.5, -0.5), xlim=limit)
    axes.set_title(
        f"{direction.campaign.title()}: {direction.evaluated} from the {direction.logged} log, "
        f"ESS {direction.ess:,.{0 if direction.ess >= 10 else 1}f}, "
        f"{direction.events:.0f} effective clicks",
        fontsize=9,
    )


def _curve(axes: Axes, played: Played, label: str, colour: str, style: str = "-") -> None:
    mean, half = played.mean, played.half_width
    axes.plot(played.rounds, mean, style, color=colour, linewidth=1.6, label=label)
    axes.fill_between(played.rounds, mean - half, mean + half, color=colour, alpha=0.15)


def _quiet(*many: Axes) -> None:
    for axes in many:
        axes.spines[["top", "right"]].set_visible(False)
