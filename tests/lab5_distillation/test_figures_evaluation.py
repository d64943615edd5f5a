"""The figures of the evaluation show what they were given."""

import numpy as np
import pytest

from labs.lab5_distillation import figures_evaluation
from labs.lab5_distillation.calibration import calibration, reliability
from labs.lab5_distillation.evaluation import ClassChange
from labs.lab5_distillation.retention import Gain
from labs.lab5_distillation.throughput import Ratio


def drawn(figure):
    """The figure's axes, after everything was laid out once."""
    figure.canvas.draw()
    return figure.axes


def test_gains_have_a_line_at_zero_and_a_stroke_a_seed():
    """A gain whose interval holds 0 is grey."""
    sure = Gain(0.01, (0.004, 0.016), (0.005, 0.015), (0.009, 0.010, 0.011), (0.0, 0.02), 100)
    unsure = Gain(0.001, (-0.004, 0.006), (-0.003, 0.005), (0.0, 0.002), (-0.01, 0.01), 100)
    (ax,) = drawn(figures_evaluation.draw_gains({"1 layer": sure, "2 layers": unsure}))
    strokes = [line for line in ax.lines if line.get_marker() == "|"]
    assert [len(line.get_xdata()) for line in strokes] == [3, 2]
    assert ax.lines[0].get_color() != ax.lines[3].get_color()
    assert ax.lines[0].get_xdata() == pytest.approx([0.4, 1.6]), "points, not shares"


def test_reliability_has_a_panel_a_model():
    """With the error that chance gives beside the error in the title."""
    logits = 3 * np.random.default_rng(0).standard_normal((200, 4))
    labels = np.random.default_rng(1).integers(0, 4, 200)
    one = reliability(logits, labels), calibration(logits, labels, n_draws=20)
    axes = drawn(figures_evaluation.draw_reliability({"a": one, "b": one}))
    assert len(axes) == 4
    assert "by chance" in axes[0].get_title()


def test_classes_that_lost_are_shown_worst_first():
    """A class that gained is not among them."""
    changes = [
        ClassChange("lost", 30, 0.9, 0.5, 0.001, 0.01),
        ClassChange("less", 30, 0.9, 0.8, 0.1, 1.0),
        ClassChange("won", 30, 0.8, 0.9, 1.0, 1.0),
    ]
    (ax,) = drawn(figures_evaluation.draw_classes(changes))
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "lost (p = 0.01)",
        "less (p = 1.00)",
    ]


def test_ratios_have_a_stroke_a_turn():
    """And the mean in words."""
    ratio = Ratio(6.2, (5.9, 6.5), (6.0, 6.2, 6.4))
    (ax,) = drawn(figures_evaluation.draw_ratios({"2 layers, int8": ratio}))
    assert any(text.get_text() == "6.2 times" for text in ax.texts)
    assert len(ax.lines[2].get_xdata()) == 3
