"""The figures show what was measured: a dot a seed, a share of texts."""

import numpy as np
import pytest

from labs.lab5_distillation.figures_task import draw_effect, draw_plans
from labs.lab5_distillation.two_stage import Effect, Plan, Taught


def test_each_plan_has_a_dot_for_each_seed_and_the_mean_in_figures():
    """A mean without its seeds hides that two plans overlap."""
    plans = Plan("task"), Plan("task, augmented", augmented=True)
    results = [
        Taught(plan, seed, 480, 1000, 0.8 + 0.05 * at + 0.01 * seed, 0.8)
        for at, plan in enumerate(plans)
        for seed in range(3)
    ]
    (axes,) = draw_plans(results, teacher_accuracy=0.95).axes
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert [len(each) for each in dots] == [3, 3]
    assert dots[1] == pytest.approx([0.85, 0.86, 0.87])
    texts = [each.get_text() for each in axes.texts]
    assert texts == ["0.810", "0.860", "teacher"]
    assert [each.get_text() for each in axes.get_yticklabels()] == ["task", "task, augmented"]


def test_both_histograms_are_shares():
    """There are fewer changed texts than texts; counts would make the teacher look more sure."""
    rng = np.random.default_rng(0)
    effect = Effect(0.7, 0.8, rng.uniform(0.9, 1, 200), rng.uniform(0.2, 1, 50))
    (axes,) = draw_effect(effect).axes
    heights = [bar.get_height() for bar in axes.patches]
    assert sum(heights) == pytest.approx(2.0)
    assert "70.0%" in axes.get_title()
