"""The figures show the numbers that they were given."""

import numpy as np
import pytest

from labs.lab5_distillation.early_exit import ExitCurve, ExitPoint
from labs.lab5_distillation.figures_progressive import (
    draw_cost,
    draw_early_exit,
    draw_generations,
    draw_schedule,
)
from labs.lab5_distillation.layer_dropping import Replacement


def lines(figure):
    (axes,) = figure.axes
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_generations_are_means_over_seeds_with_the_ensemble_apart():
    """The last value of a seed is the ensemble's: in the line it would look like a generation."""
    figure = draw_generations({"born again": [[0.8, 0.84, 0.9], [0.82, 0.86, 0.92]]})
    assert lines(figure)["born again"][:, 1] == pytest.approx([0.81, 0.85])
    assert any(np.allclose(line.get_ydata(), [0.91]) for line in figure.axes[0].lines)


def test_the_line_of_early_exits_is_in_the_order_of_layers():
    """Thresholds may come in any order; a line that goes back and forth says nothing."""
    points = (ExitPoint(0.9, 0.95, 4.0, (0.5, 0.5)), ExitPoint(0.5, 0.9, 2.0, (0.9, 0.1)))
    found = lines(draw_early_exit({"taught": ExitCurve(points, ((1, 0.8), (6, 0.96)))}))
    assert found["taught: leaves when sure"].tolist() == [[2.0, 0.9], [4.0, 0.95]]
    assert found["taught: one exit"].tolist() == [[1, 0.8], [6, 0.96]]


def test_each_way_stands_at_its_cost():
    found = lines(draw_cost({"finetuned": (4.0, [0.9, 0.92]), "direct": (4.0, [0.94])}, depth=1))
    assert found["finetuned"].tolist() == [[4.0, pytest.approx(0.91)]]
    assert found["direct"].tolist() == [[4.0, 0.94]]


def test_the_rate_is_one_where_the_successor_is_alone():
    found = lines(draw_schedule(Replacement(0.3, 50), 100))["replacement rate"]
    assert found[0].tolist() == [0, 0.3]
    assert all(rate == 1 for step, rate in found if step >= 51)
