"""Figures of rollouts: what the controller saw, and when it decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labs.lab4_model_serving.canary_run import Canary
from labs.lab4_model_serving.rollout_policy import confidence_sequence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEW, OLD, LIMIT = "#c8553d", "#2b6f8a", "#444444"
TITLES = {
    "good": "A good version",
    "slow": "A slow version",
    "wrong": "A version with wrong labels",
}


def draw_canaries(found: Sequence[Canary]) -> Figure:
    """A column a rollout: weight, p99 of both versions, accuracy of both, over time.

    Parameters
    ----------
    found
        From :func:`canary_run.canaries`; at least one.
    """
    from matplotlib.figure import Figure

    n = len(found)
    figure = Figure(figsize=(0.8 + 3.7 * n, 6.6), layout="constrained")
    axes: Any = figure.subplots(3, n, sharex="col", sharey="row", squeeze=False)
    for column, canary in enumerate(found):
        weight, latency, accuracy = axes[:, column]
        _draw_weight(weight, canary)
        _draw_latency(latency, canary)
        _draw_accuracy(accuracy, canary)
        accuracy.set_xlabel("seconds since the rollout began")
        for axis in axes[:, column]:
            axis.grid(alpha=0.25)
            axis.axvline(canary.seconds, color=LIMIT, linewidth=0.8, linestyle=":")
    for row, label in enumerate(("share of users (%)", "p99 (ms)", "accuracy")):
        axes[row, 0].set_ylabel(label)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_weight(axis: Any, canary: Canary) -> None:
    times = [look.at_s for look in canary.trace] + [1.1 * canary.seconds]
    end = 100.0 if canary.status == "promoted" else 0.0
    shares = [100 * look.weight for look in canary.trace]
    axis.step(
        [*times[:-1], canary.seconds, times[-1]], [*shares, end, end], "-", where="post", color=NEW
    )
    axis.set_ylim(-5, 108)
    word = "promoted" if canary.status == "promoted" else "rolled back"
    axis.set_title(
        f"{TITLES[canary.story]}\n{word} after {canary.seconds:.1f} s, "
        f"{canary.by_new} requests, {canary.failed} failed",
        fontsize=10,
    )


def _draw_latency(axis: Any, canary: Canary) -> None:
    for name, color, seen in (
        ("new version", NEW, [(look.at_s, look.new.p99_ms) for look in canary.trace]),
        ("old version", OLD, [(look.at_s, look.old.p99_ms) for look in canary.trace]),
    ):
        points = [(at, value) for at, value in seen if value is not None]
        if points:
            axis.plot(*zip(*points, strict=True), color=color, label=name)
    axis.axhline(canary.p99_ms, color=LIMIT, linestyle="--", linewidth=1, label="limit of p99")
    axis.set_yscale("log")


def _draw_accuracy(axis: Any, canary: Canary) -> None:
    for color, seen in (
        (NEW, [(look.at_s, look.new) for look in canary.trace]),
        (OLD, [(look.at_s, look.old) for look in canary.trace]),
    ):
        known = [(at, window) for at, window in seen if window.labelled]
        if not known:
            continue
        times = [at for at, _ in known]
        bounds = [confidence_sequence(window.wrong, window.labelled, 0.05) for _, window in known]
        axis.plot(times, [window.accuracy for _, window in known], color=color)
        axis.fill_between(
            times,
            [1 - high for _, high in bounds],
            [1 - low for low, _ in bounds],
            color=color,
            alpha=0.15,
            linewidth=0,
        )
    axis.set_ylim(0, 1.03)
