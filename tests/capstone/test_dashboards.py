"""Dashboards: the files are the code's, every query parses and asks for a metric that exists."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from capstone import alerts, dashboards
from capstone.monitor import MonitorMetrics
from capstone.service_metrics import ServiceMetrics
from labs.lab4_model_serving.dashboard import expressions
from labs.lab4_model_serving.prometheus import check_expressions
from tests.capstone.scrape import names_in

QUERIES = [
    query for each in dashboards.dashboards().values() for query in expressions(each, model="")
]


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """What the two registries announce, and what the rules record."""
    names = {each.record for each in alerts.recordings()} | {"up"}
    for registry in (ServiceMetrics().registry, MonitorMetrics().registry):
        names |= names_in(generate_latest(registry).decode())
    return names


def test_the_files_are_what_the_code_makes() -> None:
    """``python -m capstone.dashboards`` after a change, and they are again."""
    for name, content in dashboards.dashboards().items():
        found = (dashboards.FOLDER / name).read_text(encoding="utf-8")
        assert found == dashboards.text(content), name


@pytest.mark.parametrize("expression", [*alerts.expressions(), *QUERIES])
def test_every_query_parses_and_its_metrics_exist(expression: str, exposed: set[str]) -> None:
    """A renamed metric is an alert that never fires, and a panel with "No data"."""
    asked = alerts.metrics_of(expression)
    assert asked, expression
    assert asked <= exposed, f"{expression} asks for {asked - exposed}"


def test_a_metric_that_nobody_exposes_would_be_found(exposed: set[str]) -> None:
    """The test above can fail."""
    assert alerts.metrics_of("rate(feed_latency_seconds_bucket[5m])") - exposed
    assert alerts.metrics_of("feed_seconds") - exposed, "a histogram has no series of its own name"


def test_every_metric_of_the_gateway_is_looked_at(exposed: set[str]) -> None:
    """What is exported and never read is cost without use; a few are for people who search."""
    read = set().union(*map(alerts.metrics_of, [*alerts.expressions(), *QUERIES]))
    ours = {name for name in exposed if name.startswith("feed_") and not name.endswith("_created")}
    unread = {
        name
        for name in ours - read
        if not name.endswith(("_sum", "_count", "_bucket")) and ":" not in name
    }
    assert unread <= {
        "feed_filtered_total", "feed_in_flight", "feed_shadow_total", "feed_monitor_seconds",
        "feed_monitor_failures_total", "feed_logged_users", "feed_user_state_errors_total",
    }, unread  # fmt: skip


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (apt-get install prometheus)",
)
def test_prometheus_itself_takes_every_query(tmp_path: Path) -> None:
    """The grammar of the parser above and that of the server are two programs."""
    check_expressions(QUERIES, tmp_path)


def test_dashboards_have_a_fixed_uid_a_chosen_source_and_a_reason_a_panel() -> None:
    """Links lead to the uid; the data source is a variable, so that one file fits every stack."""
    found = [json.loads(dashboards.text(each)) for each in dashboards.dashboards().values()]
    assert {each["uid"] for each in found} == {"feed-service", "feed-quality"}
    for each in found:
        assert each["templating"]["list"][0]["type"] == "datasource"
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in each["panels"]}
        assert len(places) == len({panel["id"] for panel in each["panels"]})
        for panel in each["panels"]:
            assert panel["description"], panel["title"]
            assert panel["datasource"]["uid"] == "${source}"
            assert len({t["refId"] for t in panel["targets"]}) == len(panel["targets"])
