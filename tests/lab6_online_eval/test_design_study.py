"""The design stage on the lab's world, its methods under validation, and its figures."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from common.data import load
from labs.lab6_online_eval.design_study import DesignStudy, study_design
from labs.lab6_online_eval.experiment import Arm, Experiment, Kind, Metric, Role
from labs.lab6_online_eval.figures_design import (
    draw_duration,
    draw_interference,
    draw_power,
    draw_variance,
)
from labs.lab6_online_eval.methods_design import methods
from labs.lab6_online_eval.rankers import ease, top_k
from labs.lab6_online_eval.validation import validate
from labs.lab6_online_eval.world import Ints, World, build_world, read_interactions

EXPERIMENT = Experiment(
    name="discovery",
    hypothesis="less of what people know brings more clicks",
    owner="ranking",
    arms=(Arm("ease", 0.5), Arm("discovery", 0.5)),
    metrics=(Metric("clicks a session", Kind.RATIO, Role.SUCCESS, "click", "session"),),
    start=datetime(2026, 1, 5, tzinfo=UTC),
    days=14,
)


@pytest.fixture(scope="module")
def parts() -> tuple[World, tuple[Ints, Ints]]:
    data = read_interactions(load("ml-100k"))
    scores = ease(data)  # once: `discovery` would fit it again
    watched = np.maximum(data.seen.sum(axis=0), 5)
    lists = top_k(scores, data), top_k(scores / watched**0.05, data)
    return build_world(data), lists


@pytest.fixture(scope="module")
def study(parts) -> DesignStudy:
    return study_design(
        *parts, load("ml-100k"), EXPERIMENT,
        pool=20_000, n_experiments=200, n_simulations=20, seed=1,
    )  # fmt: skip


def test_simulated_power_is_the_formulas(study: DesignStudy) -> None:
    """In the lab's own world, with and without CUPED, within what 200 experiments can say."""
    for check in (study.plain, study.cuped):
        low, high = check.simulated.ci95
        assert low - 0.02 < check.formula < high + 0.02
    assert study.cuped.formula > study.plain.formula + 0.05


def test_the_log_shows_what_the_closed_form_says(study: DesignStudy) -> None:
    assert study.replayed.share == pytest.approx(study.exact.share, abs=0.005)
    assert study.replayed.mean == pytest.approx(study.exact.mean, rel=0.03)
    gain = study.exact.variance_reduction
    assert study.replayed.variance_reduction == pytest.approx(gain, abs=0.03)


def test_cuped_shortens_the_run_and_a_tenth_of_the_units_is_too_few(study: DesignStudy) -> None:
    assert study.plan_cuped.weeks is not None
    assert study.plan_plain.weeks is not None
    assert study.plan_cuped.weeks < study.plan_plain.weeks
    assert study.plan_ratio.curve[0].lift_cuped < study.plan_cuped.curve[0].lift_cuped
    assert not study.plan_scarce.enough
    assert study.plan_scarce.options


def test_more_past_explains_more_of_a_persistent_metric(study: DesignStudy) -> None:
    """Of the mean rating over a fifth; of one single rating never a tenth."""
    gains = {(gain.metric, gain.length): gain.variance_reduction for gain in study.past}
    assert gains["mean rating", 20] > 2 * gains["mean rating", 1]
    assert gains["mean rating", 20] > 0.2
    assert max(v for (name, _), v in gains.items() if name == "next rating is five") < 0.1


@pytest.mark.parametrize("draw", [draw_duration, draw_power, draw_variance, draw_interference])
def test_every_figure_can_be_drawn(study: DesignStudy, draw) -> None:
    figure = draw(study)
    figure.savefig(io.BytesIO(), format="png", dpi=20)
    assert len(figure.axes) == 2
    assert all(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)


def test_a_metric_that_cannot_be_planned_is_refused(parts) -> None:
    share = Metric("clicked", Kind.PROPORTION, Role.SUCCESS, "click")
    with pytest.raises(ValueError, match="must hold a success metric that is a mean or a ratio"):
        study_design(*parts, load("ml-100k"), replace(EXPERIMENT, metrics=(share,)))


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_the_right_methods_are_offered_and_counting_users_is_not(method) -> None:
    """A quarter of the lab's own validation; users of a cluster as independent find 30 %."""
    verdict = validate(method, 500, seed=3)
    assert verdict.offered == (method.name != "cluster_as_users"), verdict.reasons
    if method.name == "cluster_as_users":
        assert verdict.fpr > 0.2
        assert np.isfinite(verdict.coverage)
