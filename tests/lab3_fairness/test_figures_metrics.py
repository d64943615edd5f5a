"""The figures of metrics, lending and ranking are drawn from real results, with labels."""

import io

import pytest

from common.data import load
from labs.lab3_fairness import (
    figures_metrics,
    figures_ranking,
    impossibility,
    lending,
    ranking_comparison,
)


def drawn():
    debate = impossibility.compas_debate(load("compas").table("scores"), n_boot=50)
    credit = lending.fico_scores(load("fico"))
    policies = lending.lending_policies(credit)
    pool = ranking_comparison.german_credit_pool(load("german").table("applicants"))
    outcomes = ranking_comparison.compare_rankings(pool, k=50, n_boot=20, n_permutations=50)
    return {
        "impossibility": figures_metrics.draw_impossibility(debate),
        "lending": figures_metrics.draw_lending(policies, credit),
        "thresholds": figures_metrics.draw_thresholds(policies, credit),
        "exposure": figures_ranking.draw_exposure(outcomes),
        "targets": figures_ranking.draw_targets(pool, outcomes),
    }


@pytest.fixture(scope="module")
def figures():
    return drawn()


@pytest.mark.parametrize("name", ["impossibility", "lending", "thresholds", "exposure", "targets"])
def test_a_figure_has_titles_and_axis_labels_and_can_be_saved(figures, name):
    for axes in figures[name].axes:
        assert axes.get_title()
        assert axes.get_xlabel()
    file = io.BytesIO()
    figures[name].savefig(file, format="png")
    assert file.tell() > 5000
