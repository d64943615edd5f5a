"""The study of monitoring: what it shows, on small sizes."""

from __future__ import annotations

import numpy as np
import pytest

from capstone import figures_monitoring
from capstone.monitoring_study import MonitoringStudy, in_window, metrics, study_monitoring
from common.errors import InputError
from labs.lab4_model_serving.monitoring_study import reactions


@pytest.fixture(scope="module")
def study() -> MonitoringStudy:
    return study_monitoring(0, nightly=(2.0, 100.0), repeats=300)


def test_a_window_is_the_sum_of_its_minutes() -> None:
    """Before the window is full it is what there is."""
    assert in_window(np.array([1.0, 2, 3, 4]), 2).tolist() == [1, 3, 5, 7]


def test_with_traffic_incidents_are_found_when_lab_4_finds_them(study: MonitoringStudy) -> None:
    """The guard changes nothing at 6,000 requests a minute."""
    from labs.lab4_model_serving.burn_rate import incidents

    theirs = [(r.incident, r.alert, r.fired_after) for r in reactions(incidents(seed=0))]
    assert [(d.incident, d.alert, d.fired_after) for d in study.detections] == theirs


def test_the_guard_ends_the_false_pages_and_sees_a_total_outage(study: MonitoringStudy) -> None:
    """At two requests an hour one late feed is half of the traffic."""
    assert study.pages_unguarded[0] > 10
    assert max(study.pages_guarded) == 0
    assert all(minutes is not None and minutes < 30 for minutes in study.outage_minutes)


def test_every_metric_is_finite_and_named_once(study: MonitoringStudy) -> None:
    """What is recorded can be compared between runs."""
    found = metrics(study)
    assert len({name for name, _, _ in found}) == len(found) >= 10
    assert all(np.isfinite(value) and unit for _, value, unit in found)


def test_the_figures_are_drawn(study: MonitoringStudy) -> None:
    """Two panels each, with their axes named."""
    for draw in (figures_monitoring.draw_psi_null, figures_monitoring.draw_burn_rate):
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in draw(study).axes)


def test_a_service_without_traffic_is_no_service() -> None:
    """Value, limit and fix."""
    with pytest.raises(InputError, match="must be > 0 requests"):
        study_monitoring(0, nightly=(0.0,))
