import io

import numpy as np
import pandas as pd

from labs.lab3_fairness.coverage_study import Study, coverage, rate_scenario
from labs.lab3_fairness.figures_audit import draw_coverage, draw_gap_bias, draw_intersections
from labs.lab3_fairness.gap_bias import fair_gaps, null_of_fair_data
from labs.lab3_fairness.intersections import intersection_report
from labs.lab3_fairness.row_metrics import selection_rate


def drawn(figure):
    """The texts of a figure that can be drawn."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return {text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()}


def test_the_bias_of_the_gap_has_a_line_for_each_number_of_groups():
    figure = draw_gap_bias(
        fair_gaps((2, 8), (20, 200)), {20: null_of_fair_data(8, 20, 0.3, n_permutations=99)}
    )
    assert {"2 groups", "8 groups"} <= drawn(figure)


def test_coverage_has_a_panel_for_each_quantity():
    table = pd.concat(
        coverage(rate_scenario("x", sizes, (0.3, 0.3)), n_sets=100, n_boot=100).assign(
            sizes=name, generated=True
        )
        for name, sizes in (("a", (20, 30)), ("b", (50, 60)))
    )
    figure = draw_coverage(Study(100, 100, table, {}))
    assert len(figure.axes) == 3
    assert {"percentile", "Wilson", "Newcombe", "all pairs"} <= drawn(figure)


def test_a_worse_intersection_is_told_apart_from_one_without_enough_data():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "sex": rng.choice(["F", "M"], 2000),
            "age": rng.choice(list("abc"), 2000, p=[0.5, 0.48, 0.02]),
        }
    )
    low = (table["sex"] == "F") & (table["age"] == "a")
    selected = (rng.random(2000) < np.where(low, 0.1, 0.4)).astype(int)
    report = intersection_report(selected, selected, table, ("sex", "age"), selection_rate)
    assert report.n_too_small >= 1
    figure = draw_intersections(report)
    assert "worse than every margin" in drawn(figure)
    marked = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert sum(name.endswith("*") for name in marked) == report.n_too_small
