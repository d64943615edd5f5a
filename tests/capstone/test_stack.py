"""The monitoring stack, for real: processes, a scrape, and an alert that arrives."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from capstone import alerts, dashboards
from capstone.drift import save_references
from capstone.monitor import MonitorConfig
from capstone.online_quality import score_references
from capstone.service_metrics import ServiceMetrics
from capstone.stack import Monitoring, missing_programs, monitoring, received
from labs.lab4_model_serving.dashboard import expressions
from labs.lab4_model_serving.metrics_endpoint import metrics_endpoint
from tests.capstone.feed_log import write_log
from tests.capstone.scrape import names_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_programs()), reason="; ".join(missing_programs())),
]


@pytest.fixture(scope="module")
def gateway() -> ServiceMetrics:
    """The registry of a gateway that has served something."""
    metrics = ServiceMetrics()
    metrics.ready.set(1)
    metrics.requests.labels("/feed", "200").inc()
    metrics.latency.observe(0.01)
    return metrics


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, gateway: ServiceMetrics
) -> Iterator[Monitoring]:
    """The stack beside a gateway's registry, on a log whose scores have drifted."""
    folder = tmp_path_factory.mktemp("stack")
    references = score_references(write_log(folder / "reference", users=220))
    groups = folder / "groups.json"
    groups.write_text(json.dumps({"gender": {str(u): "FM"[u % 2] for u in range(1, 221)}}))
    config = MonitorConfig(
        str(write_log(folder / "events", users=220, shift=0.1, seed=1)),
        port=0,
        references=str(save_references(references, folder / "references.json")),
        groups=str(groups),
        interval_s=0.5,
    )
    exposed = SimpleNamespace(
        exposition=lambda: (generate_latest(gateway.registry), CONTENT_TYPE_PLAIN_0_0_4)
    )
    with (
        metrics_endpoint(exposed) as target,
        monitoring([target], config, folder=folder / "run", interval_s=0.2) as stack,
    ):
        yield stack


def test_every_metric_of_every_rule_and_panel_is_in_a_real_scrape(
    running: Monitoring, gateway: ServiceMetrics
) -> None:
    """The monitor is another process: what counts is what it answers, not what the code says."""
    scraped = httpx.get(f"http://{running.monitor}/metrics", trust_env=False).text
    names = names_in(scraped) | names_in(generate_latest(gateway.registry).decode())
    names |= {each.record for each in alerts.recordings()} | {"up"}
    queries = [q for d in dashboards.dashboards().values() for q in expressions(d, model="")]
    for query in [*alerts.expressions(), *queries]:
        assert alerts.metrics_of(query) <= names, query


def test_a_refused_bundle_arrives_at_alertmanager(
    running: Monitoring, gateway: ServiceMetrics
) -> None:
    """Gateway, scrape, rule, route: the whole way, with the link to its runbook."""
    assert running.prometheus is not None
    assert running.alertmanager is not None
    # The feed and the monitor are seen first, so that what follows is news.
    running.prometheus.wait_for('count(up{job=~"feed|monitor"} == 1)', lambda n: n == 2)
    gateway.mismatch.labels("index").inc()
    deadline = time.monotonic() + 20
    found: dict[str, dict] = {}
    while "FeedBundleMismatch" not in found and time.monotonic() < deadline:
        found = {each["labels"]["alertname"]: each for each in received(running.alertmanager)}
        time.sleep(0.1)
    alert = found["FeedBundleMismatch"]
    assert alert["labels"]["severity"] == "page"
    assert alert["labels"]["part"] == "index"
    assert alert["annotations"]["runbook_url"].endswith("runbooks.md#feedbundlemismatch")
    assert [each["name"] for each in alert["receivers"]] == ["pager"]


def test_every_rule_is_evaluated_and_drift_is_above_its_limit(running: Monitoring) -> None:
    """A rule that cannot be evaluated is silent for ever; its health says so."""
    assert running.prometheus is not None
    drifted = "count(feed_score_psi > feed_score_psi_limit and feed_score_psi_rows >= 200)"
    running.prometheus.wait_for(drifted, lambda heads: heads == 4)
    running.prometheus.wait_for("count(ALERTS{alertname='FeedScoreDrift'})", lambda n: n == 4)
    rules = running.prometheus.rules()
    assert len(rules) == len(alerts.expressions())
    assert {rule["health"] for rule in rules} == {"ok"}, [r for r in rules if r.get("lastError")]


def test_the_operator_is_told_where_everything_is(running: Monitoring) -> None:
    """And what is not installed, had it been so."""
    lines = running.lines()
    assert len(lines) == 3
    assert all("127.0.0.1" in line for line in lines)
