"""Figures of quantization: accuracy by bits, and the codes that few bits leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from labs.lab5_distillation.quantization_aware import BitsStudy, QuantizedStudent

METHODS = {
    "before": ("rounded after training, scales of the maxima", "#ee6677", "v"),
    "fitted": ("rounded after training, scales of least error", "#aa3377", "^"),
    "continued": ("trained on without rounding, then rounded", "#ccbb44", "s"),
    "aware": ("trained on with rounding", "#4477aa", "o"),
}
MEASURES: tuple[tuple[str, Callable[[QuantizedStudent], float]], ...] = (
    ("share of wrong answers", lambda row: 1 - row.accuracy),
    ("KL divergence from the teacher (nats)", lambda row: row.divergence),
)
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


def draw_bits(study: BitsStudy) -> Figure:
    """Wrong answers and divergence from the teacher by bits of the weights, a line a method.

    Both axes are logarithmic, or the worst row would hide all others. Bars reach from the lowest to
    the highest seed. The dashed line is the student in float32.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    both = figure.subplots(1, 2)
    bits = study.bits
    for axes, (name, measure) in zip(both, MEASURES, strict=True):
        for i, (method, (label, colour, marker)) in enumerate(METHODS.items()):
            found = [(at, study.of(each, method)) for at, each in enumerate(bits)]
            values = {at: [measure(row) for row in rows] for at, rows in found if rows}
            middle = [float(np.mean(each)) for each in values.values()]
            spread = [
                [m - min(each) for m, each in zip(middle, values.values())],
                [max(each) - m for m, each in zip(middle, values.values())],
            ]
            axes.errorbar(
                np.array(list(values)) + 0.06 * (i - 1.5),  # so that no point hides another
                middle,
                yerr=spread,
                label=label,
                color=colour,
                marker=marker,
                markersize=6,
                capsize=3,
            )
        level = float(np.mean([measure(row) for row in study.of(32, "before")]))
        axes.axhline(level, color="grey", linestyle="--", linewidth=1, label="float32")
        axes.set_xticks(range(len(bits)), [f"{at}" for at in bits])
        axes.set_xlabel("bits of a weight")
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        inside = [tick for tick in TICKS if low <= tick <= high]
        axes.set_yticks(inside, [f"{tick:g}" for tick in inside])
        axes.yaxis.set_minor_formatter("")
        axes.set_ylabel(name)
        axes.grid(True, which="both", alpha=0.25)
    both[0].set_title(f"{study.n:,} texts", fontsize=10)
    both[0].legend(fontsize=8, loc="upper left")
    figure.suptitle("A student in fewer bits: rounding after training, and training with it")
    return figure


def draw_rounding(bits: int = 3) -> Figure:
    """Left: fake quantization of a value; right: the gradient that the estimator passes."""
    import torch
    from matplotlib.figure import Figure

    from labs.lab5_distillation.fake_quantization import fake_quantize, signed

    codes, step = signed(bits), torch.tensor(1.0)
    x = torch.linspace(-codes.high - 2, codes.high + 2, 1201, requires_grad=True)
    y = fake_quantize(x, step, 0.0, codes)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    value, slope = figure.subplots(1, 2)
    at = x.detach().numpy()
    value.plot(at, at, color="grey", linestyle="--", linewidth=1, label="float")
    value.plot(at, y.detach().numpy(), color="#4477aa", label=f"{bits} bits, scale 1")
    value.set_title("Forward: the value of its code", fontsize=10)
    value.legend(fontsize=8)
    slope.plot(at, gradient.numpy(), color="#ee6677", label="straight-through")
    slope.axhline(0, color="grey", linestyle="--", linewidth=1, label="of rounding itself")
    slope.set_ylim(-0.1, 1.2)
    slope.set_title("Backward: the gradient that passes", fontsize=10)
    slope.legend(fontsize=8)
    for axes in (value, slope):
        axes.set_xlabel("x / scale")
        axes.grid(True, alpha=0.25)
    return figure
