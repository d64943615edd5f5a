"""Our arithmetic against a real Prometheus, its alert rules, and a scrape over HTTP."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from common.errors import InputError
from labs.lab4_model_serving import burn_rate, histogram
from labs.lab4_model_serving.metrics_endpoint import metrics_endpoint
from labs.lab4_model_serving.prometheus import (
    ALERT_RULES,
    RECORDING_RULES,
    Prometheus,
    check_expressions,
    check_rules,
    prometheus,
    run_rule_tests,
)
from labs.lab4_model_serving.serving_metrics import ServingMetrics

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus is not installed (apt-get install prometheus)",
)
TOKEN = "scrape-me"
REQUESTS = 20_000


def random_buckets(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Cumulative counts with empty buckets, few bounds and values beyond the last bound."""
    bounds = np.sort(rng.choice(np.arange(1, 200), size=rng.integers(1, 9), replace=False)) / 1000
    filled = rng.integers(0, 2, len(bounds) + 1)
    counts = np.cumsum(rng.integers(0, 50, len(bounds) + 1) * filled)
    return [*zip([*map(float, bounds), math.inf], map(float, counts))]


def le(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else repr(bound)


@dataclass
class Setup:
    server: Prometheus
    metrics: ServingMetrics
    latencies: np.ndarray
    cases: list[list[tuple[float, float]]]
    replicas: list[np.ndarray]
    bounds: tuple[float, ...]
    now: int
    stop: Callable[[], None]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """One Prometheus: histograms and restarting counters of the past, and a live target."""
    rng = np.random.default_rng(0)
    now = int(time.time()) - 7200
    cases = [random_buckets(rng) for _ in range(60)]
    text = ["# TYPE case histogram"]
    for i, buckets in enumerate(cases):
        text += [f'case_bucket{{case="{i}",le="{le(b)}"}} {n} {now}' for b, n in buckets]

    bounds = (0.01, 0.02, 0.05, 0.1, math.inf)
    replicas = []
    text += ["# TYPE fleet histogram"]
    for i in range(3):
        steps = np.cumsum(rng.integers(20, 200, size=(20, 5)), axis=1).astype(float)
        counters = 50_000 + np.cumsum(steps, axis=0)
        if i < 2:  # restarts once, at different times
            restart = 6 + 5 * i
            counters[restart:] = np.cumsum(steps[restart:], axis=0)
        replicas.append(counters)
        for j, bound in enumerate(bounds):
            text += [
                f'fleet_bucket{{instance="{i}",le="{le(bound)}"}} {counters[k, j]} '
                f"{now - 1 - 15 * (19 - k)}"
                for k in range(20)
            ]
    history = "\n".join([*text, "# EOF", ""])

    metrics = ServingMetrics("intents")
    metrics.info("1.0", precision="int8")
    metrics.queue_depth("1.0", 3)
    metrics.queue_limit("1.0", 100)
    latencies = rng.lognormal(math.log(0.012), 0.6, REQUESTS)
    with ExitStack() as target:
        address = target.enter_context(metrics_endpoint(metrics, token=TOKEN))
        with prometheus(
            [address],
            folder=tmp_path_factory.mktemp("prometheus"),
            rules=[RECORDING_RULES, ALERT_RULES],
            interval_s=0.2,
            token=TOKEN,
            history=history,
        ) as server:
            server.wait_for("serving_queue_depth", lambda n: n == 3)  # the zeros are scraped
            for seconds in latencies:
                metrics.observe(
                    "1.0", 200, queue_s=seconds / 2, input_s=1e-4, compute_s=seconds / 3,
                    output_s=1e-5, total_s=float(seconds),
                )  # fmt: skip
            metrics.refused("1.0", 503)
            server.wait_for("sum(serving_requests_total)", lambda n: n == REQUESTS + 1)
            yield Setup(server, metrics, latencies, cases, replicas, bounds, now, target.close)


@needs_prometheus
@pytest.mark.slow
@pytest.mark.parametrize("q", [-1, 0, 0.01, 0.5, 0.9, 0.99, 0.999, 1, 2])
def test_our_quantile_is_that_of_prometheus(setup, q):
    """60 random histograms: empty ones, empty buckets, values beyond the last bound, one bound."""
    found = {
        int(s.labels["case"]): s.value
        for s in setup.server.query(f"histogram_quantile({q}, case_bucket)", at=setup.now)
    }
    ours = {i: histogram.quantile(buckets, q) for i, buckets in enumerate(setup.cases)}
    assert found.keys() == ours.keys()
    for i, value in ours.items():
        assert found[i] == pytest.approx(value, rel=1e-9, nan_ok=True), setup.cases[i]


@needs_prometheus
@pytest.mark.slow
def test_our_increase_is_that_of_prometheus_but_for_the_ends_of_the_window(setup):
    """Three replicas, two restarts. ``increase`` stretches to the whole window by one factor.

    The factor is the same for each bucket, so quantiles are equal.
    """
    ours = histogram.merged_increase(setup.replicas)
    found = {
        s.labels["le"]: s.value
        for s in setup.server.query("sum by (le) (increase(fleet_bucket[5m]))", at=setup.now)
    }
    factors = np.array([found[le(bound)] for bound in setup.bounds]) / ours
    assert factors == pytest.approx(np.full(5, factors[0]), rel=1e-9)
    assert 1 < factors[0] < 1.1
    p99 = setup.server.value(
        "histogram_quantile(0.99, sum by (le) (rate(fleet_bucket[5m])))", at=setup.now
    )
    assert histogram.quantile([*zip(setup.bounds, ours)], 0.99) == pytest.approx(p99)


@needs_prometheus
@pytest.mark.slow
def test_adding_replicas_before_the_rate_sees_restarts_that_were_none(setup):
    """The sum falls when one replica restarts; ``rate`` then takes the whole sum for new."""
    right = setup.server.value('sum(increase(fleet_bucket{le="+Inf"}[5m]))', at=setup.now)
    wrong = setup.server.value(
        'sum(increase(sum by (le) (fleet_bucket{le="+Inf"})[5m:15s]))', at=setup.now
    )
    assert wrong > 3 * right, (wrong, right)


@needs_prometheus
@pytest.mark.slow
def test_a_scraped_p99_is_ours_and_near_the_exact_one(setup):
    """A server is scraped over HTTP: text, parser, storage and query give our number."""
    labels = 'version="1.0",status="200"'
    p99 = setup.server.value(
        f"histogram_quantile(0.99, sum by (le) (serving_request_seconds_bucket{{{labels}}}))"
    )
    text, _ = setup.metrics.exposition()
    ours = histogram.from_exposition(text.decode(), "serving_request_seconds", {"status": "200"})
    assert histogram.quantile(ours, 0.99) == pytest.approx(p99)
    exact = np.sort(setup.latencies)[int(REQUESTS * 0.99)]
    assert 0.04 < exact < 0.06
    assert abs(p99 - exact) < 0.01, "no further off than its bucket is wide"


@needs_prometheus
@pytest.mark.slow
def test_the_share_within_the_slo_is_exact(setup):
    """The bound 0.05 is in the histogram, so that share is counted and not estimated."""
    found = setup.server.value(
        'sum(serving_request_seconds_bucket{le="0.05"}) / sum(serving_request_seconds_count)'
    )
    assert found == (setup.latencies <= 0.05).mean()


@needs_prometheus
@pytest.mark.slow
def test_every_rule_is_evaluated_and_the_recorded_p99_appears(setup):
    """A rule that cannot be evaluated is silent for ever; its health says so."""
    setup.server.wait_for(
        "model_version:serving_request_seconds:p99_5m", lambda seconds: 0.04 < seconds < 0.06
    )
    # Each group has a clock of its own.
    bad = setup.server.wait_for("model:serving_slo_bad:ratio_rate5m", lambda share: share > 0)
    rules = setup.server.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, [r for r in rules if r.get("lastError")]
    assert len(rules) == 19
    late = (setup.latencies > 0.05).sum() + 1  # and the one that was refused
    assert bad == pytest.approx(late / (REQUESTS + 1), rel=0.02)


@needs_prometheus
@pytest.mark.slow
def test_a_server_that_went_away_is_an_alert(setup):
    """Last: the target stops, and ``up`` is 0 at the next scrape."""
    assert setup.server.value('up{job="serving"}') == 1
    setup.stop()
    setup.server.wait_for('up{job="serving"}', lambda up: up == 0)
    setup.server.wait_for('count(ALERTS{alertname="ServingTargetDown"})', lambda n: n == 1)
    (alert,) = [each for each in setup.server.alerts() if each.name == "ServingTargetDown"]
    assert (alert.state, alert.labels["severity"]) == ("pending", "ticket")


@needs_prometheus
@pytest.mark.slow
def test_a_wrong_expression_and_a_vector_for_a_number_are_refused(setup):
    """The message is Prometheus' own, with the place of the fault."""
    with pytest.raises(InputError, match="parse error"):
        setup.server.query("sum(")
    with pytest.raises(InputError, match="60 series"):
        setup.server.value("count by (case) (case_bucket)", at=setup.now)


@needs_prometheus
def test_the_alert_rules_pass_their_unit_tests():
    """promtool plays an outage, a blip, a leak, a total outage, low traffic, a lost target."""
    assert "SUCCESS" in run_rule_tests()


@needs_prometheus
def test_a_rule_file_with_a_fault_is_refused_with_its_place(tmp_path):
    """Prometheus would not start, or keep its old rules at a reload."""
    file = tmp_path / "rules.yml"
    file.write_text("groups: [{name: a, rules: [{record: b, expr: 'rate('}]}]", encoding="utf-8")
    with pytest.raises(InputError, match="could not parse expression"):
        check_rules(file)
    with pytest.raises(InputError, match="no rule file"):
        check_rules(tmp_path / "none.yml")
    check_expressions(["sum(rate(x[5m]))"], tmp_path)
    with pytest.raises(InputError, match="checked:1"):
        check_expressions(["1", "sum(rate(x))"], tmp_path)


def test_the_alerts_use_the_thresholds_of_the_table():
    """alerts.yml is written by hand: its windows and factors are those of burn_rate.WORKBOOK."""
    text = ALERT_RULES.read_text(encoding="utf-8")
    for alert in burn_rate.WORKBOOK:
        names = {5: "5m", 30: "30m", 60: "1h", 360: "6h", 4320: "3d"}
        for window in (alert.long_min, alert.short_min):
            expected = (
                f"model:serving_slo_bad:ratio_rate{names[window]} > {alert.threshold:g} * 0.01"
            )
            assert expected in text, expected


def test_without_prometheus_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    """Not a FileNotFoundError from deep inside."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(InputError, match="apt-get install prometheus"),
        prometheus([], folder=tmp_path),
    ):
        pass


def test_the_endpoint_wants_its_token_and_serves_nothing_else():
    """What is said about traffic is not for everybody who reaches the port."""
    metrics = ServingMetrics("intents")
    with metrics_endpoint(metrics, token=TOKEN) as address, httpx.Client(trust_env=False) as client:
        token = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get(f"http://{address}/metrics").status_code == 401
        assert client.get(f"http://{address}/other", headers=token).status_code == 404
        answer = client.get(f"http://{address}/metrics", headers=token)
        assert answer.content == metrics.exposition()[0]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{address}/metrics", trust_env=False)


def test_the_token_file_is_for_its_owner_only(tmp_path):
    """A token in a world-readable file, or in the configuration, is no secret."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (apt-get install prometheus)")
    with prometheus([], folder=tmp_path, token=TOKEN):
        assert (tmp_path / "token").stat().st_mode & 0o077 == 0
        assert TOKEN not in Path(tmp_path / "prometheus.yml").read_text(encoding="utf-8")
