"""The study for the run, and its figures."""

from __future__ import annotations

import pytest

from labs.lab6_online_eval import figures_significance as figures
from labs.lab6_online_eval.significance_study import study_significance


def test_the_study_shows_what_the_lesson_says_and_can_be_drawn() -> None:
    """Twenty metrics of nothing: .64 without a correction; a flat prior under peeking: .79."""
    study = study_significance(n=800, seed=1)
    assert study.family("unadjusted", 20, 0) == pytest.approx(0.642, abs=0.06)
    assert study.family("holm", 20, 0) < 0.08
    assert study.bayes.row("flat", 20).improved < 0.85 < study.bayes.row("fitted", 20).improved
    assert study.clusters[0].cr0 > 0.12 > study.clusters[-1].cr1_t
    for figure, panels in (
        (figures.draw_multiple_testing(study.families), 2),
        (figures.draw_few_clusters(study.clusters), 1),
        (figures.draw_bayes(study.bayes), 2),
    ):
        assert len(figure.axes) == panels
        assert all(axis.get_xlabel() for axis in figure.axes)
