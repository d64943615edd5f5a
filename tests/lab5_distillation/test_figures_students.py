"""Figures of students show what they were given."""

import io

import pytest
import torch

from labs.lab5_distillation.figures_students import (
    draw_cutting,
    draw_importance,
    draw_layer_choices,
    draw_starts,
)
from labs.lab5_distillation.importance import Importance
from labs.lab5_distillation.width_pruning import Cut


def saved(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getbuffer().nbytes


def test_the_choices_have_a_row_for_each_strategy():
    """Twelve squares in each of four rows."""
    figure = draw_layer_choices(12, 4)
    (axes,) = figure.axes
    assert len(axes.collections) == 48
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "first", "last", "spread", "alternate",
    ]  # fmt: skip
    assert saved(figure)


def test_importance_shows_shares_of_a_layer():
    """A row of the map sums to 1; the curve of a layer ends at all of its importance."""
    heads = [torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0])]
    figure = draw_importance(Importance(heads, [torch.arange(8.0), torch.zeros(8)]))
    shown = figure.axes[0].images[0].get_array()
    assert shown.tolist() == [[0.25, 0.75], [0.0, 0.0]]
    assert figure.axes[1].lines[0].get_ydata()[-1] == pytest.approx(1.0)
    assert saved(figure)


def test_random_rankings_share_one_entry_of_the_legend():
    """Three controls are one kind of line; the others have names."""
    cuts = [
        Cut(name, share, 1, 8, accuracy)
        for name in ("Taylor", "random 0", "random 1")
        for share, accuracy in ((1.0, 0.9), (0.5, 0.7))
    ]
    figure = draw_cutting(cuts)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["Taylor", "at random"]
    assert axes.lines[0].get_xdata().tolist() == [0.5, 1.0]
    assert saved(figure)


def test_starts_are_points_by_seed_with_their_mean():
    """Two clouds and two bars, and a line where the teacher is."""
    figure = draw_starts({"fine-tuned": [0.9, 0.8], "random": [0.2]}, teacher=0.95)
    (axes,) = figure.axes
    assert len(axes.collections) == 4
    assert axes.collections[1].get_offsets()[0].tolist() == pytest.approx([0.85, 0.0])
    assert axes.lines[0].get_xdata()[0] == 0.95
    assert saved(figure)
