"""Two Grafana dashboards from the names of the metrics: what users feel, and whether it is good.

Lab 4's ``dashboard.py`` says what a panel becomes; here are the panels. ``python -m
capstone.dashboards`` writes the files that Grafana is provisioned with; tests hold each expression
against a real scrape and the grammar of PromQL.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capstone.alerts import BUDGET, DOCKER, FEED, SLO_S, WINDOWS
from labs.lab4_model_serving.burn_rate import FAST, SLOW
from labs.lab4_model_serving.dashboard import RATE, Panel, Query, panel_json

FOLDER = DOCKER / "grafana" / "dashboards"


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{RATE}))"


def _quantile(q: float, metric: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q:g}, sum by ({labels}) (rate({metric}_bucket{RATE})))"


def service_panels() -> list[Panel]:
    """From what users feel down to its causes."""
    per_feed = f"sum(rate(feed_seconds_count{RATE}))"
    within = f'sum(rate(feed_seconds_bucket{{le="{SLO_S:g}"}}{RATE}))'
    return [
        Panel(
            f"Feeds within {SLO_S * 1000:.0f} ms", "percentunit",
            [Query(f"{within} / {per_feed}", "share")],
            "The objective. 0.05 is a bound of the histogram, so it is counted and not estimated.",
            line=1 - BUDGET,
        ),
        Panel(
            "Burn rate of the error budget", "short",
            [
                Query(f"feed:slo_bad:ratio_rate{window} / {BUDGET:g}", window)
                for window in WINDOWS.values()
            ],
            f"1 spends the budget in 30 days. Pages: {FAST.threshold:g} in 1 h and 5 min, "
            f"{SLOW.threshold:g} in 6 h and 30 min.",
            line=FAST.threshold,
        ),
        Panel(
            "Requests by status", "reqps",
            [Query(f"sum by (status) (rate(feed_requests_total{{{FEED}}}{RATE}))", "{{status}}")],
            "Traffic and errors. 4xx is the client's fault and costs no budget.", stacked=True,
        ),
        Panel(
            "Latency of a feed", "s",
            [Query(_quantile(q, "feed_seconds"), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)],
            "Buckets of all replicas are added before the quantile is taken.", line=SLO_S,
        ),
        Panel(
            "Where the time goes, mean by stage", "s",
            [
                Query(
                    f"{_rate('feed_stage_seconds_sum', 'stage')} / ignoring (stage) "
                    f"group_left () {per_feed}",
                    "{{stage}}",
                )
            ],
            "Seconds of each stage per feed: they add up to the mean of the whole.", stacked=True,
        ),
        Panel(
            "Where the tail is, p99 by stage", "s",
            [Query(_quantile(0.99, "feed_stage_seconds", "stage"), "{{stage}}")],
            "A tail in score is load or the ranker; in log it is the disk.", line=SLO_S,
        ),
        Panel(
            "Fallback feeds", "percentunit",
            [
                Query(
                    f"{_rate('feed_fallbacks_total', 'stage, reason')} / ignoring (stage, reason) "
                    f"group_left () {per_feed}",
                    "{{stage}} {{reason}}",
                )
            ],
            "Share of feeds without a ranking, by the stage that missed and why.",
            line=0.05, stacked=True,
        ),
        Panel(
            "Empty and short feeds", "percentunit",
            [
                Query(f"sum(rate(feed_{kind}_total{RATE})) / {per_feed}", kind)
                for kind in ("empty", "short", "cold_start")
            ],
            "Empty is a fault. Short means filters ate the candidates. Cold starts are news.",
        ),
        Panel(
            "Reactions", "reqps",
            [Query(_rate("feed_events_total", "reaction, outcome"), "{{reaction}} {{outcome}}")],
            "Refused reactions are not acknowledged: the client keeps them.", stacked=True,
        ),
        Panel(
            "Event log", "short",
            [
                Query("sum(feed_event_log_pending)", "waiting"),
                Query("sum(increase(feed_event_log_errors_total[5m]))", "failed in 5 min"),
            ],
            "Records that are not on disk yet, and those that could not be written.",
        ),
        Panel(
            "Arms", "percentunit",
            [
                Query(
                    f"{_rate('feed_feeds_total', 'arm, version')} / ignoring (arm, version) "
                    f"group_left () sum(rate(feed_feeds_total{RATE}))",
                    "{{arm}} {{version}}",
                ),
                Query("max by (arm) (feed_arm_weight)", "weight of {{arm}}"),
            ],
            "The share that each arm got beside the share it should get.",
        ),
        Panel(
            "What is loaded, what is away", "short",
            [
                Query("count by (arm, version) (feed_bundle_info == 1)", "{{arm}} {{version}}"),
                Query("sum(feed_ready)", "ready"),
                Query("sum(feed_scorer_breaker_open)", "do not ask the ranker"),
                Query("sum(feed_user_state_degraded)", "with old histories"),
                Query("sum(increase(feed_bundle_mismatch_total[1h]))", "bundles refused in 1 h"),
            ],
            "Replicas by bundle: during a rollout there are two lines.",
        ),
    ]  # fmt: skip


def quality_panels() -> list[Panel]:
    """Whether the feed is good, each statistic with the limit that chance does not exceed."""

    def judged(metric: str, label: str) -> list[Query]:
        return [
            Query(f"feed_{metric}", f"{{{{{label}}}}}"),
            Query(f"feed_{metric}_limit", f"limit of {{{{{label}}}}}"),
        ]

    return [
        Panel(
            "Calibration error by head", "short", judged("calibration_error", "head"),
            "Expected calibration error given a reaction; the limit is a calibrated head's.",
        ),
        Panel(
            "Predicted and observed", "percentunit",
            [
                Query("feed_predicted_rate", "predicted {{head}}"),
                Query("feed_observed_rate", "observed {{head}}"),
            ],
            "In which direction a head is off.",
        ),
        Panel(
            "Score drift by head", "short", judged("score_psi", "head"),
            "PSI against the bundle's reference; the limit shrinks as users come.",
        ),
        Panel(
            "Served scores", "short",
            [Query(_quantile(0.5, "feed_score", "head"), "median {{head}}")],
            "Of all served items, from the gateways' own histogram.",
        ),
        Panel(
            "Gap between groups", "percentunit", judged("group_gap", "attribute"),
            "Largest difference of engagement; the limit is that of groups dealt out at random.",
        ),
        Panel(
            "Engagement by group", "percentunit",
            [Query("feed_group_engaged_share", "{{attribute}} {{group}}")],
            "Share of shown items that were clicked, liked or shared.",
        ),
        Panel(
            "Exploration and fallback", "percentunit",
            [
                Query("feed_exploration_share", "explored items"),
                Query("feed_fallback_share", "fallback feeds"),
                Query("feed_engaged_share", "engaged items"),
            ],
            "Without explored items nothing with a propensity is logged.",
        ),
        Panel(
            "Served items by slot", "reqps", [Query(_rate("feed_slots_total", "slot"), "{{slot}}")],
            "Why items stand where they stand.", stacked=True,
        ),
        Panel(
            "Served items by source", "reqps",
            [Query(_rate("feed_items_total", "source"), "{{source}}")],
            "A source that dried up is seen here first.", stacked=True,
        ),
        Panel(
            "Monitor", "short",
            [
                Query(
                    "time() - feed_monitor_last_success_timestamp_seconds", "seconds since a result"
                ),
                Query("feed_logged_feeds", "feeds in the window"),
                Query("feed_logged_reactions", "reactions in the window"),
            ],
            "Everything above is as old as the newest result.",
        ),
    ]  # fmt: skip


def dashboard(uid: str, title: str, panels: Sequence[Panel]) -> dict[str, Any]:
    """A dashboard as Grafana reads it from a file (schema 39, Grafana 10 and later)."""
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": uid,
        "title": title,
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source]},
        "panels": [panel_json(place, panel) for place, panel in enumerate(panels)],
    }


def dashboards() -> dict[str, dict[str, Any]]:
    """File name to dashboard; a uid never changes, links lead to it."""
    return {
        "feed-service.json": dashboard("feed-service", "Feed: service", service_panels()),
        "feed-quality.json": dashboard("feed-quality", "Feed: quality", quality_panels()),
    }


def text(content: dict[str, Any]) -> str:
    """The JSON of a dashboard as it is in its file."""
    return json.dumps(content, indent=2) + "\n"


def write() -> list[Path]:
    """Write the files; their paths."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in dashboards().items():
        (FOLDER / name).write_text(text(content), encoding="utf-8")
    return [FOLDER / name for name in dashboards()]


if __name__ == "__main__":
    print("\n".join(map(str, write())))
