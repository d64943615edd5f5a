"""The study that the lab shows: what is true in it whatever the seed, and its figures."""

import numpy as np
import pytest

from labs.lab4_model_serving.burn_rate import incidents
from labs.lab4_model_serving.figures_monitoring import (
    draw_bucket_error,
    draw_burn_rate,
    draw_fleet_p99,
)
from labs.lab4_model_serving.monitoring_study import MonitoringStudy, monitoring_study, reactions


@pytest.fixture(scope="module")
def study() -> MonitoringStudy:
    return monitoring_study(None, n=4000, points=40, seed=3)


def test_the_default_bounds_are_worse_than_chosen_ones(study):
    """Near the SLO the lab's bounds are off by a few percent; the default's smallest is 5 ms."""
    assert study.buckets.worst_near("this lab's", 0.05) < 0.10
    assert study.buckets.worst("this lab's") < 0.3
    assert study.buckets.worst("prometheus-client's default") > 1


def test_the_mean_of_p99s_errs_to_both_sides_and_added_buckets_to_none(study):
    """A slow replica with few requests raises the mean; one with many is diluted by the others."""
    found = study.metrics
    assert found["monitoring.mean_of_p99s_most_ratio"] > 3
    assert found["monitoring.mean_of_p99s_least_ratio"] < 0.5
    assert found["monitoring.merged_p99_worst_error"] < 0.25


def test_reactions_are_counted_from_the_incident():
    """The outage pages after 17 of the minutes that the formula says, and ends with it."""
    found = {(each.incident, each.alert): each for each in reactions(incidents(seed=3))}
    outage = found["30 minutes at 50 % bad", "page, fast"]
    assert outage.fired_after in (17, 18)
    assert 0 < outage.ended_after <= 5
    assert found["2 minutes at 60 % bad", "page, fast"].fired_after is None
    assert all(each.fired_after is None for key, each in found.items() if "nothing" in key[0])


def test_without_prometheus_its_metric_is_left_out(study):
    """Not a 0 that would read as "no difference"."""
    assert study.scraped is None
    assert "monitoring.prometheus_difference" not in study.metrics
    assert all(np.isfinite(value) for value in study.metrics.values())


def test_figures_have_labels_and_a_legend(study):
    """Every axis says what it shows and in which unit."""
    for figure in (
        draw_bucket_error(study.buckets),
        draw_fleet_p99(study.fleet),
        draw_burn_rate(study.incidents),
    ):
        assert all(axes.get_xlabel() and axes.get_legend() for axes in figure.axes)
        assert figure.axes[0].get_ylabel()
        figure.canvas.draw()
