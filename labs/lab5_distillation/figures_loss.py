"""Figures of the loss: what the teacher knows, temperatures, modes, confidence, few labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.errors import require
from labs.lab5_distillation.label_free import max_probability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labs.lab5_distillation.few_labels import FewLabels
    from labs.lab5_distillation.loss_studies import Judged

BLUE, ORANGE, GREY, GREEN = "#2b6cb0", "#c05621", "#718096", "#2f855a"
COLOURS = (BLUE, ORANGE, GREEN, "#805ad5", "#b83280", GREY)


def draw_soft_targets(
    text: str,
    logits: Tensor,
    names: Sequence[str],
    *,
    temperatures: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    top: int = 6,
) -> Figure:
    """What the teacher knows about one text: its first choices at rising temperatures.

    Parameters
    ----------
    logits
        The teacher's, [C], classes in the order of ``names``.
    top
        Classes shown, at most C - 1; all others share a bar.
    """
    from matplotlib.figure import Figure

    require(1 <= top < len(names), "top", top, f"must be from 1 to {len(names) - 1}")
    first = logits.argsort(descending=True)[:top]
    labels = [names[int(each)] for each in first] + [f"{len(names) - top} others"]
    figure = Figure(figsize=(2.2 + 2.1 * len(temperatures), 0.9 + 0.3 * len(labels)), dpi=120)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(temperatures), sharey=True, squeeze=False)[0]
    for axes, temperature in zip(panels, temperatures, strict=True):
        p = torch.softmax(logits.double() / temperature, dim=-1)[first].tolist()
        values = [*p, 1 - sum(p)]
        axes.barh(range(len(values)), values, color=[BLUE] + [ORANGE] * (top - 1) + [GREY])
        for place, value in enumerate(values):
            shown = f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"
            axes.annotate(
                shown, (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.set(xlim=(0, 1.3), xticks=(0, 0.5, 1))
        axes.set_title(f"T = {temperature:g}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    figure.suptitle(f"“{text}”", fontsize=10)
    figure.supxlabel("softened probability of the teacher", fontsize=9)
    return figure


def draw_temperature_study(rows: Sequence[Judged]) -> Figure:
    """Accuracy and agreement against temperature, a line for each weight of the soft targets.

    Parameters
    ----------
    rows
        Of `loss_studies.temperature_study`; those with alpha 0 are a level line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    alphas = sorted({row.alpha for row in rows if row.alpha > 0})
    for axes, name in zip(panels, ("accuracy", "agreement"), strict=True):
        for alpha, colour in zip(alphas, COLOURS * len(alphas)):
            chosen = sorted(
                (row for row in rows if row.alpha == alpha), key=lambda row: row.temperature
            )
            axes.plot(
                [row.temperature for row in chosen],
                [getattr(row, name) for row in chosen],
                "o-", color=colour, label=f"alpha {alpha:g}",
            )  # fmt: skip
        for row in (row for row in rows if row.alpha == 0):
            axes.axhline(getattr(row, name), color=GREY, linestyle="--", label="labels alone")
        axes.set(xscale="log", xlabel="temperature", ylabel=name)
        ticks = sorted({row.temperature for row in rows if row.alpha > 0})
        axes.set_xticks(ticks, [f"{each:g}" for each in ticks], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    panels[0].set_title("with the labels of held-out texts", fontsize=10)
    panels[1].set_title("with the teacher", fontsize=10)
    panels[0].legend(fontsize=8)
    return figure


def draw_peaks(teacher: Tensor, students: Mapping[str, Tensor]) -> Figure:
    """A teacher with two peaks and students with one (`loss_studies.fit_one_peak`).

    Parameters
    ----------
    teacher
        Probabilities [C].
    students
        Name of the loss to probabilities [C].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    places = range(len(teacher))
    axes.bar(places, teacher.tolist(), width=1.0, color="#cbd5e0", label="teacher")
    for (name, student), colour in zip(students.items(), COLOURS):
        axes.plot(places, student.tolist(), color=colour, label=name, linewidth=1.8)
    axes.set(xlabel="class", ylabel="probability")
    axes.legend(fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_confidence(pools: Mapping[str, Tensor], *, threshold: float | None = None) -> Figure:
    """Share of texts with at least a given confidence of the teacher, for each pool of texts.

    Parameters
    ----------
    pools
        Name to the teacher's logits [N, C].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, logits), colour in zip(pools.items(), COLOURS):
        confidence = np.sort(max_probability(logits).cpu().numpy())
        share = 1 - np.arange(len(confidence)) / len(confidence)
        axes.step(confidence, share, where="pre", color=colour, label=name)
    if threshold is not None:
        axes.axvspan(threshold, 1, color=GREY, alpha=0.15, linewidth=0)
    axes.set(
        xlabel="largest probability of the teacher", ylabel="share of texts with at least that",
        xlim=(0, 1), ylim=(0, 1.02),
    )  # fmt: skip
    axes.legend(fontsize=9, loc="lower left")
    axes.grid(alpha=0.3)
    return figure


def draw_few_labels(rows: Sequence[FewLabels]) -> Figure:
    """Accuracy of each method of `few_labels.few_labels_study`: the mean over seeds, and each seed.

    Parameters
    ----------
    rows
        Of one number of labels a class.
    """
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(8, 0.9 + 0.36 * len(methods)), layout="constrained")
    axes = figure.subplots()
    for place, method in enumerate(methods):
        found = [row.accuracy for row in rows if row.method == method]
        colour = GREY if place == 0 else BLUE
        axes.plot(found, [place] * len(found), "o", color=colour, alpha=0.4, markersize=5)
        axes.plot(np.mean(found), place, "|", color=colour, markersize=14, markeredgewidth=2.5)
        axes.annotate(
            f"{np.mean(found):.3f}", (max(found), place), (8, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.margins(x=0.15)
    axes.set(xlabel="accuracy on test texts")
    axes.set_title(f"{rows[0].per_class} labelled texts a class", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    return figure
