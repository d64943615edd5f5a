"""Figures of the sequential methods and of the guardrails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm

from labs.lab6_online_eval import confidence_sequences, peeking
from labs.lab6_online_eval.guardrail_study import AutomaticStopStudy
from labs.lab6_online_eval.guardrails import GuardrailResult, Verdict
from labs.lab6_online_eval.methods_sequential import Looked
from labs.lab6_online_eval.peeking import PeekingStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "naive_peeking": "#c0392b",
    "confidence_sequence": "#1f5f99",
    "msprt": "#5fa2d9",
    "obrien_fleming": "#2e7d4f",
    "pocock": "#8a6d1f",
}
LABELS = {
    "naive_peeking": "p < .05 at every look",
    "confidence_sequence": "confidence sequence",
    "msprt": "mSPRT",
    "obrien_fleming": "O'Brien-Fleming",
    "pocock": "Pocock",
}
MARKERS = dict(zip(LABELS, "oos^x", strict=True))
VERDICTS = {Verdict.SAFE: "#2e7d4f", Verdict.HARMED: "#c0392b", Verdict.UNDECIDED: "#777777"}


def draw_peeking(result: PeekingStudy) -> Figure:
    """False positives by number of looks, and what each rule needs for the same power."""
    figure, (left, right) = _two_panels()
    for rule in dict.fromkeys(row.rule for row in result.rows):
        rows = [row for row in result.rows if row.rule == rule]
        looks = [row.looks for row in rows]
        style: dict[str, Any] = {
            "color": COLOURS[rule],
            "label": LABELS[rule],
            "marker": MARKERS[rule],
        }
        left.plot(looks, [row.false_positives for row in rows], **style)
        if rule != "naive_peeking":
            right.plot(looks, [row.inflation for row in rows], **style)
            right.plot(looks, [row.mean_share_at_power for row in rows], ls=":", c=COLOURS[rule])
    left.axhline(0.05, color="black", linewidth=0.8, linestyle="--")
    for axis in (left, right):
        axis.set_xticks(sorted({row.looks for row in result.rows}))
    left.set(xlabel="looks", ylabel="false positives (A/A)", ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    right.axhline(1, color="black", linewidth=0.8, linestyle="--")
    right.set(xlabel="looks", ylabel="sample for power .8, one look = 1", ylim=(0.6, None))
    right.set_title("solid: planned; dotted: mean at the stop", fontsize=9)
    return figure


def draw_boundaries(looks: int = 20) -> Figure:
    """The absolute z at which each rule stops, look by look."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for rule in peeking.RULES:
        plan = peeking.boundaries_of(rule, looks)
        axis.plot(np.arange(1, looks + 1), plan.z, c=COLOURS[rule], label=LABELS[rule], marker=".")
    axis.set(xlabel="look", ylabel="boundary of |z|", ylim=(1.5, 6))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False, fontsize=8)
    return figure


def draw_confidence_sequence(data: Looked, *, true_effect: float, tuned_for: float) -> Figure:
    """One experiment (the first of ``data``) look by look: fixed intervals and the sequence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    effect, se = data.effect[0], data.se[0]
    half = confidence_sequences.half_width(se, data.units, tuned_for=tuned_for)
    low, high = confidence_sequences.running_intersection(effect - half, effect + half)
    fixed = float(norm.isf(0.025)) * se
    axis.fill_between(
        data.units, low, high, color=COLOURS["confidence_sequence"], alpha=0.25,
        label="confidence sequence (intersection so far)",
    )  # fmt: skip
    axis.fill_between(
        data.units, effect - fixed, effect + fixed, color=COLOURS["naive_peeking"], alpha=0.3,
        label="fixed-horizon 95 % interval at each look",
    )  # fmt: skip
    axis.plot(data.units, effect, color="black", linewidth=1, label="estimate")
    axis.axhline(true_effect, color="black", linewidth=0.8, linestyle="--", label="truth")
    outside = np.abs(effect - true_effect) > fixed
    axis.plot(data.units[outside], effect[outside], "x", color=COLOURS["naive_peeking"])
    axis.set(xlabel="units, both arms", ylabel="effect (standard deviations)")
    axis.legend(frameon=False, fontsize=8)
    return figure


def draw_guardrails(results: Sequence[GuardrailResult]) -> Figure:
    """Each guardrail's effect and worst allowed effect against its margin; right is worse.

    In units of the margin, so that a 1 % and a 50 % margin share an axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.45 * len(results)), layout="constrained")
    axis = figure.subplots()
    for row, result in enumerate(results):
        sign = -1.0 if result.higher_is_better else 1.0
        effect, bound = (sign * x / result.margin for x in (result.effect, result.bound))
        colour = VERDICTS[result.verdict]
        axis.plot([effect, bound], [row, row], color=colour, linewidth=2)
        axis.plot(effect, row, "o", color=colour)
        axis.plot(bound, row, "|", color=colour, markersize=12)
    axis.axvline(1, color="black", linestyle="--", linewidth=1)
    axis.axvline(0, color="black", linewidth=0.6)
    names = [f"{r.name} (margin {r.margin:.1%}): {r.verdict}" for r in results]
    axis.set_yticks(range(len(results)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("loss in units of the margin: estimate (dot) to one-sided 95 % bound")
    return figure


def draw_automatic_stop(result: AutomaticStopStudy) -> Figure:
    """Hours until a fault is stopped, and how often experiments without one are."""
    figure, (left, right) = _two_panels()
    for stops, colour in zip(result.faults, ("#1f5f99", "#c0392b", "#8a6d1f"), strict=False):
        finite = np.sort(stops.hours[np.isfinite(stops.hours)])
        share = np.arange(1, len(finite) + 1) / stops.n
        left.step([0, *finite], [0, *share], where="post", c=colour, label=stops.name)
    left.set(xlabel="hours since the start", ylabel="share of experiments stopped", ylim=(0, 1.03))
    left.legend(frameon=False, fontsize=8, title="fault")
    cases = (result.healthy, result.at_margin)
    x = np.arange(len(cases))
    right.bar(x - 0.2, [c.share for c in cases], 0.4, color="#1f5f99", label="always-valid bound")
    right.bar(x + 0.2, [c.naive_share for c in cases], 0.4, color="#c0392b", label="p < .05 hourly")
    for place, case in zip(x, cases, strict=True):
        right.plot([place - 0.2] * 2, case.share_ci, color="black", linewidth=1)
    right.axhline(0.05, color="black", linewidth=0.8, linestyle="--")
    names = [
        f"{label}\n(n = {c.n})" for label, c in zip(("healthy", "at margins"), cases, strict=True)
    ]
    right.set_xticks(x, names)
    right.set_ylabel(f"stopped within {result.days:g} days")
    right.legend(frameon=False, fontsize=8)
    return figure


def _two_panels() -> tuple[Figure, tuple[Axes, Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    return figure, (left, right)
