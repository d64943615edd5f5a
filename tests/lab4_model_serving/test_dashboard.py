"""The dashboard asks for metrics that exist, in expressions that parse."""

import json
import re
import shutil

import pytest

from labs.lab4_model_serving import dashboard
from labs.lab4_model_serving.prometheus import ALERT_RULES, RECORDING_RULES, check_expressions
from labs.lab4_model_serving.serving_metrics import ServingMetrics


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """Names of the series that a server exposes, and of those that rules record."""
    metrics = ServingMetrics("intents")
    metrics.info("1.0", precision="int8", digest="ab")
    metrics.queue_depth("1.0", 0)
    metrics.queue_limit("1.0", 100)
    text = metrics.exposition()[0].decode()
    recorded = re.findall(r"record: (\S+)", RECORDING_RULES.read_text(encoding="utf-8"))
    return set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE)) | set(recorded)


def test_the_file_is_the_one_that_the_code_makes():
    """Change panels(), then run ``python -m labs.lab4_model_serving.dashboard``."""
    assert dashboard.FILE.read_text(encoding="utf-8") == dashboard.text()


def test_every_metric_of_the_dashboard_exists(exposed):
    """A renamed metric leaves a panel with "No data", found on the day it is needed."""
    for expression in dashboard.expressions(dashboard.dashboard(), model="intents"):
        asked = dashboard.metrics_of(expression)
        assert asked, expression
        assert asked <= exposed, f"{expression} asks for {asked - exposed}"


def test_every_metric_of_the_rules_exists(exposed):
    """A rule on a metric that nobody exposes never fires, and looks like health."""
    for file in (RECORDING_RULES, ALERT_RULES):
        code = "".join(
            line for line in file.read_text(encoding="utf-8").splitlines(True) if "#" not in line
        )
        code = re.sub(r"- name: .*|action: .*", "", code)
        asked = dashboard.metrics_of(code)
        assert asked <= exposed, f"{file.name} asks for {asked - exposed}"
        assert len(asked) > 3


def test_a_metric_that_does_not_exist_would_be_found(exposed):
    """The two tests above can fail."""
    assert dashboard.metrics_of("sum(rate(serving_latency_seconds_bucket[5m]))") - exposed
    assert dashboard.metrics_of("model:serving_slo_bad:ratio_rate2h > 1") - exposed


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (apt-get install prometheus)",
)
def test_every_expression_parses_in_prometheus(tmp_path):
    """Grafana shows a parse error only to who opens the dashboard."""
    found = dashboard.expressions(json.loads(dashboard.text()), model="intents")
    assert len(found) > 15
    check_expressions(found, tmp_path)


def test_panels_have_their_place_and_a_reason():
    """No two panels overlap, ids are unique, and each says how to read it."""
    found = json.loads(dashboard.text())["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found}
    assert len(places) == len({panel["id"] for panel in found}) == len(found)
    assert all(panel["description"] for panel in found)
    assert all(len({t["refId"] for t in p["targets"]}) == len(p["targets"]) for p in found)
