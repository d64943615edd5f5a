"""The figures show every method, every group and every target."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from labs.lab3_fairness import figures_frontier
from labs.lab3_fairness.frontier import compare_with_programme, frontier_curve
from labs.lab3_fairness.mitigation import Mitigated
from labs.lab3_fairness.target_rules import ScoredRows, Target, pursue


def synthetic(seed: int, n: int = 3000) -> ScoredRows:
    rng = np.random.default_rng(seed)
    groups = np.where(rng.random(n) < 0.4, "b", "a").astype(object)
    logits = rng.normal(np.where(groups == "a", -0.3, -1.2), 1.7)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    return ScoredRows(1 / (1 + np.exp(-logits)), labels, groups)


@pytest.fixture(scope="module")
def measured():
    validation, test = synthetic(0), synthetic(1)
    features = pd.DataFrame({"number": np.arange(3000)})
    pursuits = [
        pursue(validation, test, features, target, repeats=2, n_boot=50)
        for target in (Target("eo", eo_diff=0.05), Target("dp", dp_diff=0.05))
    ]
    plain = Mitigated("plain", "none", (test.scores > 0.5).astype(float), False, False, 0.0)
    return validation, test, pursuits, compare_with_programme([plain], validation, test, n_boot=50)


def test_every_method_has_a_number_on_both_panels_and_a_name(measured):
    validation, test, pursuits, comparisons = measured
    attempts = [each for p in pursuits for each in (p.programme, p.bands, p.hashed)]
    curve = frontier_curve(validation, test, (0.0, 0.1, 1.0), (1.0, 1.0, 1.0))
    figure = figures_frontier.draw_frontier(comparisons, attempts, curve, curve)
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == [str(n) for n in range(1, 8)]
    legend = figure.get_supxlabel()
    assert all(attempt.method.name in legend for attempt in attempts)


def test_bands_have_a_panel_for_each_target_and_group(measured):
    validation, _, pursuits, _ = measured
    figure = figures_frontier.draw_decision_bands(validation, pursuits)
    titles = [axes.get_title() for axes in figure.axes]
    assert [title.split(":")[0] for title in titles] == [
        "a, target eo",
        "b, target eo",
        "a, target dp",
        "b, target dp",
    ]


def test_the_roc_figure_marks_each_group_for_each_target(measured):
    validation, _, pursuits, _ = measured
    axes = figures_frontier.draw_group_roc(validation, pursuits).axes[0]
    marks = [line for line in axes.lines if line.get_marker() in "osD^" and len(line.get_xdata())]
    assert len(marks) == 4


def test_the_surface_names_its_axes():
    figure = figures_frontier.draw_surface(
        np.linspace(0.75, 0.88, 9).reshape(3, 3), (0.0, 0.1, 0.2), (0.0, 0.1, 0.2)
    )
    assert "equalized odds" in figure.axes[0].get_xlabel()
