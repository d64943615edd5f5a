"""Figures of the experiments; everything in them is of simulated people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from capstone.aa_study import AAStudy
    from capstone.experiment import Outcome
    from capstone.experiment_study import ExperimentStudy, Row
    from capstone.rollout import Look
    from capstone.rollout_simulation import Characteristics

BLUE, ORANGE, GREEN, RED, GREY = "#2b6cb0", "#c05621", "#2f855a", "#c53030", "#718096"
VERDICTS = {"safe": GREEN, "undecided": "#cbd5e0", "harm": RED}
TRUTHS = {
    "clicks_per_session": "clicks",
    "long_views_per_session": "long_views",
    "shares_per_session": "shares",
    "hides_per_session": "hides",
}


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def draw_effect(outcome: Outcome) -> Figure:
    """Each metric's effect as a share of the control's mean, its interval, and the truth."""
    from matplotlib.figure import Figure

    shown = [
        (name, result, outcome.truth[key])
        for name, key in TRUTHS.items()
        if (result := outcome.metric(name)) is not None
    ]
    figure = Figure(figsize=(7.5, 0.5 * len(shown) + 1.2), layout="constrained")
    axes = figure.subplots()
    _clean(axes)
    for place, (_, result, truth) in enumerate(reversed(shown)):
        base = result.comparison.mean_control / 100 or 1.0
        low, high = result.effect.interval
        axes.plot([low / base, high / base], [place, place], color=BLUE, linewidth=2)
        axes.plot(result.effect.estimate / base, place, "o", color=BLUE)
        axes.plot(truth / base, place, "D", color=ORANGE, markersize=6)
    axes.plot([], [], "o-", color=BLUE, label="estimate, 95 % interval")
    axes.plot([], [], "D", color=ORANGE, linestyle="none", label="the simulated world's truth")
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    names = [name.replace("_per_session", "").replace("_", " ") for name, _, _ in reversed(shown)]
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    arms = outcome.analysis.experiment.arms
    axes.set_xlabel(f"{arms[1].name} against {arms[0].name}, % a session (simulated)")
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return figure


def draw_rollouts(
    rollouts: Mapping[str, Characteristics], names: Sequence[str] = ("good", "bait", "harmful")
) -> Figure:
    """The first rollout of each candidate, look by look: weight, clicks' interval, guardrails."""
    traces = {name: rollouts[name].example.trace for name in names}
    return draw_traces(traces)


def draw_traces(traces: Mapping[str, Sequence[Look]]) -> Figure:
    """Rollouts look by look, one column each: the weight, the clicks' interval, the guardrails."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(traces), 5.6), layout="constrained")
    panels = figure.subplots(
        3, len(traces), squeeze=False, sharex="col", sharey="row", height_ratios=(1, 1.6, 0.9)
    )
    for column, (name, trace) in enumerate(traces.items()):
        _draw_rollout([panels[row, column] for row in range(3)], name, trace)
    panels[0, 0].set_ylabel("weight (%)")
    panels[1, 0].set_ylabel("effect on clicks\na session")
    panels[1, 0].legend(frameon=False, fontsize=8)
    return figure


def _draw_rollout(panels: Sequence[Axes], name: str, trace: Sequence[Look]) -> None:
    from matplotlib.ticker import MaxNLocator

    weights, evidence, verdicts = panels
    looks = list(range(1, len(trace) + 1))
    ended = trace[-1].action
    after = {"advance": 100.0, "rollback": 0.0}.get(ended, 100 * trace[-1].weight)
    steps = [100 * look.weight for look in trace] + [after]
    weights.step([*looks, len(looks) + 1], steps, where="post", color=BLUE)
    word = {"advance": "promoted", "rollback": "rolled back"}.get(ended, "running")
    weights.set_title(f"{name}: {word}", fontsize=10)
    weights.set_ylim(-5, 105)
    known = [(at, look.success) for at, look in zip(looks, trace, strict=True) if look.success]
    for at, (low, high) in known:
        colour = GREEN if low > 0 else RED if high < 0 else GREY
        evidence.plot([at, at], [low, high], color=colour, linewidth=2)
    evidence.axhline(0, color=GREY, linestyle="--", linewidth=1)
    for label, colour in (("gain", GREEN), ("cannot tell", GREY), ("loss", RED)):
        evidence.plot([], [], color=colour, linewidth=2, label=label)
    rows = ("hides", "slow", "fallbacks", "errors")
    for place, guardrail in enumerate(rows):
        colours = [VERDICTS.get(look.guardrails.get(guardrail, ""), "white") for look in trace]
        verdicts.scatter(looks, [place] * len(looks), c=colours, marker="s", s=18)
    verdicts.set_yticks(range(len(rows)), rows)
    verdicts.set_ylim(-0.6, len(rows) - 0.4)
    verdicts.set_xlabel("look")
    verdicts.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels:
        _clean(axes)


def draw_characteristics(rollouts: Mapping[str, Characteristics]) -> Figure:
    """What became of many rollouts of each candidate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.5 * len(rollouts) + 1.3), layout="constrained")
    axes = figure.subplots()
    _clean(axes)
    names = list(rollouts)[::-1]
    left = [0.0] * len(names)
    for label, colour in (("promoted", GREEN), ("stopped", RED), ("given up", "#a0aec0")):
        widths = [100 * getattr(rollouts[name], label.replace(" ", "_")) for name in names]
        axes.barh(names, widths, left=left, color=colour, label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for place, name in enumerate(names):
        found = rollouts[name]
        text = f" clicks {found.effect:+.2f}, hides x{found.hides:.1f}, {found.exposed:,.0f} saw it"
        axes.text(101, place, text, va="center", fontsize=8)
    n = next(iter(rollouts.values())).n
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"% of {n} simulated rollouts; at the right the truth, and the median exposure")
    figure.legend(frameon=False, loc="outside upper center", ncols=3)
    return figure


def draw_aa(study: AAStudy) -> Figure:
    """False positives of A/A: one planned look, many naive looks, many always-valid looks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 2.4), layout="constrained")
    axes = figure.subplots()
    _clean(axes)
    rows = (
        (f"{study.looks} looks, always-valid p", study.always_valid, BLUE),
        (f"{study.looks} looks, the first p < .05", study.naive, RED),
        ("one planned look", study.planned, BLUE),
    )
    for place, (_, share, colour) in enumerate(rows):
        low, high = share.ci95
        axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=2)
        axes.plot(100 * share.value, place, "o", color=colour)
    axes.axvline(5, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(-0.6, 2.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"% of {study.planned.n} simulated A/A tests that found an effect")
    return figure


def draw_reconciliation(study: ExperimentStudy) -> Figure:
    """A/B, interleaving and off-policy: each panel one estimand, with its truth."""
    from matplotlib.figure import Figure

    groups: dict[str, list[Row]] = {}
    for row in study.rows:
        if not row.design.endswith("IPS"):
            groups.setdefault(row.estimand, []).append(row)
    heights = [0.45 * len(rows) + 0.7 for rows in groups.values()]
    figure = Figure(figsize=(7.5, sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (estimand, rows) in zip(panels, groups.items(), strict=True):
        _draw_rows(axes, rows)
        axes.set_title(f"{estimand} (simulated)", fontsize=9, loc="left")
    return figure


def _draw_rows(axes: Any, rows: Sequence[Row]) -> None:
    _clean(axes)
    for place, row in enumerate(reversed(rows)):
        colour = GREY if row.refused else BLUE
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
        axes.plot(row.estimate, place, "x" if row.refused else "o", color=colour)
    truth = rows[0].truth
    line = 0.0 if truth is None else truth
    label = "no preference" if truth is None else "truth"
    axes.axvline(line, color=GREY if truth is None else ORANGE, linestyle="--", label=label)
    if truth is not None and min(row.low for row in rows) < 0:
        axes.axvline(0, color=GREY, linewidth=0.8)
    names = [row.design + (" (refused)" if row.refused else "") for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
