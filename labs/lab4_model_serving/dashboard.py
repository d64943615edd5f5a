"""The Grafana dashboard, made from the names of the metrics (run this module to write its JSON).

A dashboard that is clicked together keeps asking for a metric after it was renamed, and shows "No
data" on the day it is needed. Here every panel is a line of code, and tests hold each expression
against the text that the server exposes and the parser of a real Prometheus.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labs.lab4_model_serving.burn_rate import FAST, SLOW
from labs.lab4_model_serving.prometheus import MONITORING
from labs.lab4_model_serving.serving_metrics import SLO_S, STAGES

FILE = MONITORING / "dashboard.json"
RATE = "[$__rate_interval]"
SELECTED = 'model="$model"'


@dataclass(frozen=True)
class Query:
    """One expression and the legend of its series."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One graph. ``line`` is drawn as a threshold."""

    title: str
    unit: str
    queries: Sequence[Query]
    why: str
    line: float | None = None
    stacked: bool = False


def _quantile(q: float, metric: str, by: str) -> str:
    return (
        f"histogram_quantile({q:g}, sum by (le, {by}) (rate({metric}_bucket{{{SELECTED}}}{RATE})))"
    )


def panels() -> list[Panel]:
    """What is shown, from what users feel down to its causes."""
    within = f'serving_request_seconds_bucket{{{SELECTED},status="200",le="{SLO_S:g}"}}'
    asked = f'serving_requests_total{{{SELECTED},status!~"4([0-8].|9[0-8])"}}'
    stages = [stage for stage in STAGES if stage != "request"]
    return [
        Panel(
            "Answered within 50 ms",
            "percentunit",
            [
                Query(
                    f"sum by (version) (rate({within}{RATE}))"
                    f" / sum by (version) (rate({asked}{RATE}))",
                    "{{version}}",
                )
            ],
            "The objective itself. Read off a bucket bound, so exact.",
            line=0.99,
        ),
        Panel(
            "Burn rate of the error budget",
            "short",
            [
                Query(f"model:serving_slo_bad:ratio_rate{window}{{{SELECTED}}} / 0.01", window)
                for window in ("5m", "1h", "6h")
            ],
            f"1 spends the budget in 30 days. Pages: {FAST.threshold:g} in 1 h and 5 min, "
            f"{SLOW.threshold:g} in 6 h and 30 min.",
            line=FAST.threshold,
        ),
        Panel(
            "Latency by version",
            "s",
            [
                Query(
                    _quantile(q, "serving_request_seconds", "version"),
                    f"p{q * 100:g} {{{{version}}}}",
                )
                for q in (0.5, 0.95, 0.99)
            ],
            "A canary stands beside what it would replace.",
            line=SLO_S,
        ),
        Panel(
            "Requests by status",
            "reqps",
            [
                Query(
                    f"sum by (version, status) (rate(serving_requests_total{{{SELECTED}}}{RATE}))",
                    "{{version}} {{status}}",
                )
            ],
            "Traffic and errors. 503 is refused, 504 came too late.",
            stacked=True,
        ),
        Panel(
            "Where the time goes, mean",
            "s",
            [
                Query(
                    f"sum(rate(serving_{stage}_seconds_sum{{{SELECTED}}}{RATE}))"
                    f" / sum(rate(serving_{stage}_seconds_count{{{SELECTED}}}{RATE}))",
                    stage,
                )
                for stage in stages
            ],
            "Means of parts add up to the mean of the whole; percentiles of parts do not.",
            stacked=True,
        ),
        Panel(
            "Where the tail is, p99 of each stage",
            "s",
            [
                Query(_quantile(0.99, f"serving_{stage}_seconds", "model"), stage)
                for stage in stages
            ],
            "The tail of the queue means load, of compute a batch or a neighbour.",
            line=SLO_S,
        ),
        Panel(
            "Queue, share of its limit",
            "percentunit",
            [
                Query(
                    f"max by (version) (serving_queue_depth{{{SELECTED}}}"
                    f" / serving_queue_limit{{{SELECTED}}})",
                    "{{version}}",
                )
            ],
            "Sampled once a scrape: short bursts are not seen here but in the queue's time.",
            line=0.8,
        ),
        Panel(
            "Batch size, mean",
            "short",
            [
                Query(
                    f"sum by (version) (rate(serving_batch_size_sum{{{SELECTED}}}{RATE}))"
                    f" / sum by (version) (rate(serving_batch_size_count{{{SELECTED}}}{RATE}))",
                    "{{version}}",
                )
            ],
            "Grows with load. At 1, batching only costs its delay.",
        ),
        Panel(
            "Refused",
            "reqps",
            [
                Query(
                    f"sum by (status) (rate(serving_refused_total{{{SELECTED}}}{RATE}))",
                    "{{status}}",
                )
            ],
            "Not run: at fault (4xx) or shed (503).",
        ),
        Panel(
            "Loaded versions",
            "short",
            [
                Query(
                    f"count by (version, precision, sha256) (serving_model_info{{{SELECTED}}})",
                    "{{version}} {{precision}} {{sha256}}",
                )
            ],
            "Replicas by what they serve: during a rollout there are two lines.",
        ),
    ]


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it (schema 39, Grafana 10 and later)."""
    return {
        "uid": "lab4-model-serving",
        "title": "Model serving",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "source",
                    "type": "datasource",
                    "query": "prometheus",
                    "label": "Prometheus",
                },
                {
                    "name": "model",
                    "type": "query",
                    "datasource": {"type": "prometheus", "uid": "${source}"},
                    "query": "label_values(serving_requests_total, model)",
                    "refresh": 2,
                },
            ]
        },
        "panels": [panel_json(place, panel) for place, panel in enumerate(panels())],
    }


def panel_json(place: int, panel: Panel) -> dict[str, Any]:
    """A panel as Grafana reads it; two stand side by side."""
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.line is not None:
        steps.append({"color": "red", "value": panel.line})
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.why,
        "datasource": source,
        "gridPos": {"x": 12 * (place % 2), "y": 8 * (place // 2), "w": 12, "h": 8},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {
                    "stacking": {"mode": "normal" if panel.stacked else "none"},
                    "fillOpacity": 20 if panel.stacked else 0,
                    "thresholdsStyle": {"mode": "off" if panel.line is None else "line"},
                },
            },
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": source,
                "expr": query.expression,
                "legendFormat": query.legend,
            }
            for i, query in enumerate(panel.queries)
        ],
    }


def expressions(found: Mapping[str, Any], *, model: str, rate_interval: str = "5m") -> list[str]:
    """Every expression of a dashboard, with Grafana's variables put in."""
    return [
        target["expr"].replace("$model", model).replace("$__rate_interval", rate_interval)
        for panel in found["panels"]
        for target in panel["targets"]
    ]


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression reads: ours, and those of the recording rules."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"(?<![\w:])(?:\w+:)?serving_\w+(?::\w+)*", bare))


def write() -> None:
    """Write ``monitoring/dashboard.json``."""
    FILE.write_text(text(), encoding="utf-8")


def text() -> str:
    """The JSON of :func:`dashboard` as it is in the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    write()
