import numpy as np
import pytest

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import figures_calibration as figures
from labs.lab3_fairness.calibration_study import (
    calibrate_compas,
    cover_adult,
    cover_compas,
    doubt_adult,
    multicalibrate_adult,
)
from labs.lab3_fairness.scoring import boosting, logistic_regression


@pytest.fixture(scope="module")
def adult():
    tables = load("adult")
    return tables.table("train"), tables.table("test")


@pytest.fixture(scope="module")
def compas():
    return load("compas").table("scores")


@pytest.fixture(scope="module")
def corrected(adult):
    return multicalibrate_adult(*adult, logistic_regression, n_boot=50, n_simulations=99)


def drawn(figure):
    """The text of a figure that was rendered without an error."""
    figure.savefig("/dev/null", format="png", dpi=40)
    return " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))


def test_calibrating_each_sex_leaves_groups_that_multicalibration_repairs(corrected):
    """Logistic regression rates people under 25 too high, men and women alike."""
    plain, by_sex, multi = corrected.plain, corrected.per_sex, corrected.multicalibrated
    assert plain.audit.n_audited > 200
    assert by_sex.audit.worst_group == "age=[0, 25)"
    assert by_sex.audit.worst_z > by_sex.audit.null_q95 + 1
    sexes = [by_sex.audit.names.index(name) for name in ("sex=Female", "sex=Male")]
    assert (abs(by_sex.audit.z[sexes]) < by_sex.audit.null_q95).all()
    assert multi.audit.n_flagged == 0 < by_sex.audit.n_flagged
    assert multi.log_loss < by_sex.log_loss < plain.log_loss


def test_most_corrections_are_dropped_without_a_gain_on_held_out_rows(corrected):
    losses = corrected.corrections.held_out_loss
    assert len(corrected.corrections.updates) == int(np.argmin(losses))
    assert losses.min() < losses[0]


def test_one_threshold_covers_women_more_than_men_and_one_a_sex_both_alike(adult):
    result = cover_adult(*adult, boosting)
    marginal, mondrian = result.marginal, result.mondrian
    assert marginal.loc["(all)", "low"] < 0.9 < marginal.loc["(all)", "high"]
    assert marginal.loc["Male", "high"] < 0.9 < marginal.loc["Female", "low"]
    for sex in ("Female", "Male"):
        assert mondrian.loc[sex, "coverage"] == pytest.approx(0.9, abs=0.015)
    assert mondrian.loc["Male", "several"] > marginal.loc["Male", "several"]
    assert sum(result.n_calibration.values()) == len(adult[0]) - len(adult[0]) * 2 // 3
    with pytest.raises(InputError, match="column = 'planet'"):
        cover_adult(*adult, boosting, column="planet")


def test_compas_keeps_its_promise_by_not_deciding(compas):
    """A set with both labels is no decision: more than half of the defendants get one."""
    result = cover_compas(compas, logistic_regression)
    assert result.marginal.loc["(all)", "coverage"] == pytest.approx(0.9, abs=0.03)
    assert result.marginal.loc["(all)", "several"] > 0.5


def test_abstaining_helps_men_with_a_high_income_before_women(adult):
    result = doubt_adult(*adult, boosting, n_members=3, n_rows=8000)
    table = result.selective.pivot(index="coverage", columns="group", values="accuracy")
    gap = table["Male > 50K"] - table["Female > 50K"]
    assert gap[0.7] > gap[1.0] + 0.03
    assert len(drawn(figures.draw_selective(result))) > 0
    with pytest.raises(InputError, match="n_rows = 5"):
        doubt_adult(*adult, boosting, n_rows=5)


def test_figures_say_what_they_show(compas, corrected):
    calibrated = calibrate_compas(compas, logistic_regression, n_boot=50)
    assert "African-American (n = 1,074)" in drawn(figures.draw_reliability(calibrated))
    assert "platt, per group" in drawn(figures.draw_recalibration(calibrated))
    assert "0 flagged" in drawn(figures.draw_multicalibration({"a model": corrected}))
    assert "(all)" in drawn(figures.draw_coverage(cover_compas(compas, logistic_regression)))
