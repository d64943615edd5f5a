"""Every alert of the feed service from one list; rule files for Prometheus and Kubernetes.

Pages are for what users feel, tickets for what will matter. Each alert has a guard: below the
traffic that its threshold needs it stays silent, since one late request in a quiet night is a
large share of few. ``python -m capstone.alerts`` writes the files that are made from the list.

The objective: of the feed requests that are not the client's fault (4xx), 99 % are answered without
a 5xx and within 50 ms, over 30 days. The bound 0.05 is one of the histogram's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import require
from common.exercises import exercise
from labs.lab4_model_serving.burn_rate import FAST, SLOW, TICKET, BurnAlert

DOCKER = Path(__file__).parents[1] / "docker"
RULES_FILE = DOCKER / "rules.yml"
KUBERNETES_RULES = DOCKER / "kubernetes" / "base" / "prometheus-rule.yaml"
RUNBOOKS = "capstone/docs/runbooks.md"

SLO_S = 0.05
BUDGET = 0.01
HEALTHY_SHARE = BUDGET / 5
"""Share of bad requests of an ordinary day, which must not wake anybody."""
FALSE_ALARM = 1e-5
FEED = 'route="/feed"'
WINDOWS = {5: "5m", 30: "30m", 60: "1h", 360: "6h", 4320: "3d"}
LEAST_REQUESTS = {FAST.name: 14, SLOW.name: 67, TICKET.name: 1100}
"""Requests in the long window below which an alert is silent: :func:`least_requests`."""
LEAST_FEEDS = 100
LEAST_ROWS = 200
"""Joined rows, or users, below which a statistic of online quality raises no alert."""
PAGE, TICKETED = "page", "ticket"


def least_requests(
    bad_share: float, *, healthy: float = HEALTHY_SHARE, false_alarm: float = FALSE_ALARM
) -> int:
    """Requests from which on a healthy service is above ``bad_share`` with at most ``false_alarm``.

        least n such that for all m >= n:  P(Binomial(m, healthy) > bad_share * m) <= false_alarm

    Parameters
    ----------
    bad_share
        Of the alert: its burn rate times the budget, in (healthy, 1).

    Raises
    ------
    InputError
        A share out of its range.
    """
    from scipy.stats import binom

    require(0 < healthy < 1, "healthy", healthy, "must be in (0, 1)")
    require(healthy < bad_share < 1, "bad_share", bad_share, f"must be in ({healthy:g}, 1)")
    most = int(100 / healthy)
    n = np.arange(1, most)
    chance = np.asarray(binom.sf(np.floor(bad_share * n + 1e-9), n, healthy))
    too_often = n[chance > false_alarm]
    return int(too_often[-1]) + 1 if len(too_often) else 1


@exercise(
    "7.11",
    points=8,
    title="The multi-window burn-rate rule",
    hint="Compare burn rates, not shares. What do two bad requests of two say? And which window "
    "ends the alert soon after the repair?",
)
def budget_burns(
    bad_long: ArrayLike,
    total_long: ArrayLike,
    bad_short: ArrayLike,
    total_short: ArrayLike,
    *,
    threshold: float,
    budget: float,
    least: int,
) -> NDArray[np.bool_]:
    """Whether a burn-rate alert fires, at each moment.

    With ``burn = (bad / total) / budget`` of a window (0 where nothing was asked) it fires while

        burn_long > threshold  and  burn_short > threshold  and  total_long >= least

    Parameters
    ----------
    bad_long, total_long, bad_short, total_short : arrays of shape [moments], or scalars
        Requests that broke the objective, and all, in the long and in the short window.
    threshold
        Burn rate, 14.4 for the fast page.
    budget
        Share that may be bad, 0.01 for an objective of 99 %.
    least
        Requests in the long window below which nothing can be said.

    Returns
    -------
    bool array [moments]

    References
    ----------
    Beyer et al., The Site Reliability Workbook, chapter 5, sections 6 (multiwindow, multi-burn-rate
    alerts) and "Low-Traffic Services and Error Budget Alerting".
    """

    # BEGIN SOLUTION
    def burn(bad: ArrayLike, total: ArrayLike) -> NDArray[np.float64]:
        asked = np.asarray(total, dtype=float)
        share = np.divide(
            np.asarray(bad, dtype=float), asked, out=np.zeros(asked.shape), where=asked > 0
        )
        return share / budget

    return np.asarray(
        (burn(bad_long, total_long) > threshold)
        & (burn(bad_short, total_short) > threshold)
        & (np.asarray(total_long) >= least)
    )
    # END SOLUTION


@dataclass(frozen=True)
class Recording:
    """A series that alerts and panels read, computed once."""

    record: str
    expr: str

    def as_rule(self) -> dict[str, Any]:
        return {"record": self.record, "expr": self.expr}


@dataclass(frozen=True)
class Alert:
    """One alert. ``condition`` fires it; ``guard`` (``and ...``) asks for enough traffic."""

    name: str
    condition: str
    severity: str
    summary: str
    for_: str = "0m"
    guard: str = ""

    @property
    def expr(self) -> str:
        return f"{self.condition}\n{self.guard}" if self.guard else self.condition

    @property
    def runbook(self) -> str:
        """Where it says what to do: one heading an alert, under its name."""
        return f"{RUNBOOKS}#{self.name.lower()}"

    def as_rule(self) -> dict[str, Any]:
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.for_,
            "labels": {"severity": self.severity, "service": "feed"},
            "annotations": {"summary": self.summary, "runbook_url": self.runbook},
        }


def recordings() -> list[Recording]:
    """The objective and the traffic over each window."""
    made = []
    for window in WINDOWS.values():
        failed = f'sum(rate(feed_requests_total{{{FEED},status=~"5.."}}[{window}])) or vector(0)'
        late = (
            f"sum(rate(feed_seconds_count[{window}]))"
            f' - sum(rate(feed_seconds_bucket{{le="{SLO_S:g}"}}[{window}]))'
        )
        asked = f'feed_requests_total{{{FEED},status!~"4.."}}[{window}]'
        made += [
            Recording(
                f"feed:slo_bad:ratio_rate{window}",
                f"clamp_max((({failed}) + {late}) / sum(rate({asked})), 1)",
            ),
            Recording(f"feed:requests:increase{window}", f"sum(increase({asked}))"),
        ]
    return made


def _burn(name: str, rule: BurnAlert, severity: str, summary: str) -> Alert:
    long, short = WINDOWS[rule.long_min], WINDOWS[rule.short_min]
    limit = f"{rule.threshold:g} * {BUDGET:g}"
    return Alert(
        name,
        f"feed:slo_bad:ratio_rate{long} > {limit}\n  and feed:slo_bad:ratio_rate{short} > {limit}",
        severity,
        summary,
        guard=f"  and feed:requests:increase{long} >= {LEAST_REQUESTS[rule.name]}",
    )


def _enough_feeds(window: str, least: int = LEAST_FEEDS) -> str:
    return f"  and on () sum(increase(feed_seconds_count[{window}])) >= {least}"


def _grew(metric: str, by: str, window: str) -> str:
    """A counter grew, its first appearance included: ``increase`` does not see a series begin."""
    return (
        f"(sum by ({by}) (increase({metric}[{window}])) > 0)\n"
        f"  or (sum by ({by}) ({metric} unless {metric} offset {window}) > 0)"
    )


def alerts() -> list[Alert]:
    """Every alert, from what users feel to what watches the watchers."""
    per_feed = "sum(rate(feed_seconds_count[10m]))"
    limits = {
        "score_psi": ("FeedScoreDrift", "head", "scores differ from the bundle's reference"),
        "calibration_error": ("FeedCalibrationOff", "head", "probabilities are not what happens"),
        "group_gap": ("FeedGroupGap", "attribute", "engagement differs between groups of users"),
    }
    return [
        _burn(
            "FeedBudgetBurnsFast", FAST, PAGE,
            "{{ $value | humanizePercentage }} of the feeds late or failed in the last hour",
        ),
        _burn(
            "FeedBudgetBurns", SLOW, PAGE,
            "{{ $value | humanizePercentage }} of the feeds late or failed in the last 6 hours",
        ),
        _burn(
            "FeedBudgetBurnsSlowly", TICKET, TICKETED,
            "The month will end over budget: {{ $value | humanizePercentage }} bad in 3 days",
        ),
        Alert(
            "FeedTargetDown", 'up{job="feed"} == 0', PAGE,
            "{{ $labels.instance }} does not answer /metrics", for_="1m",
        ),
        Alert(
            "FeedAbsent", 'absent(up{job="feed"})', PAGE,
            "Prometheus has no target of the job feed: every other alert is blind", for_="5m",
        ),
        Alert(
            "FeedNotReady", "feed_ready == 0", PAGE,
            "{{ $labels.instance }} takes no requests", for_="2m",
        ),
        Alert(
            "FeedNoTraffic", "sum(increase(feed_seconds_count[15m])) == 0", TICKETED,
            "Nobody was given a feed for 15 minutes", for_="15m",
            guard="  and on () sum(increase(feed_seconds_count[1d])) >= 1000",
        ),
        Alert(
            "FeedFallbacksHigh", f"sum(rate(feed_fallbacks_total[10m])) / {per_feed} > 0.05", PAGE,
            "{{ $value | humanizePercentage }} of the feeds are fallbacks", for_="2m",
            guard=_enough_feeds("10m"),
        ),
        Alert(
            "FeedEmpty", f"sum(rate(feed_empty_total[10m])) / {per_feed} > 0.001", PAGE,
            "{{ $value | humanizePercentage }} of the feeds are empty", for_="2m",
            guard=_enough_feeds("10m", 5 * LEAST_FEEDS),
        ),
        Alert(
            "FeedShort", f"sum(rate(feed_short_total[10m])) / {per_feed} > 0.05", TICKETED,
            "{{ $value | humanizePercentage }} of the feeds have too few items", for_="10m",
            guard=_enough_feeds("10m"),
        ),
        Alert(
            "FeedStageSlow",
            "histogram_quantile(0.99, sum by (stage, le) (rate(feed_stage_seconds_bucket[10m])))"
            f" > {SLO_S:g}", TICKETED,
            "p99 of stage {{ $labels.stage }} alone is {{ $value | humanizeDuration }}",
            for_="5m",
            # Of fewer, the p99 is the slowest handful (lab 4, monitoring).
            guard="  and on (stage) sum by (stage) (increase(feed_stage_seconds_count[10m]))"
            " >= 662",
        ),
        Alert(
            "FeedScorerUnavailable", "feed_scorer_breaker_open == 1", TICKETED,
            "{{ $labels.instance }} does not ask the ranker any more: it failed", for_="2m",
        ),
        Alert(
            "FeedUserStateDegraded", "feed_user_state_degraded == 1", TICKETED,
            "{{ $labels.instance }} may serve out-of-date histories", for_="2m",
        ),
        Alert(
            "FeedBundleMismatch", _grew("feed_bundle_mismatch_total", "part", "15m"), PAGE,
            "A bundle was refused: its {{ $labels.part }} does not fit",
        ),
        Alert(
            "FeedReplicasDisagree",
            "count by (arm) (count by (arm, version, checkpoint) (feed_bundle_info == 1)) > 1",
            TICKETED,
            "Arm {{ $labels.arm }} is served from {{ $value }} different bundles", for_="30m",
        ),
        Alert(
            "FeedEventLogFailing", _grew("feed_event_log_errors_total", "kind", "5m"), PAGE,
            "The event log cannot write {{ $labels.kind }}: reactions are refused",
        ),
        Alert(
            "FeedEventLogBehind", "feed_event_log_pending > 10000", TICKETED,
            "{{ $value }} events of {{ $labels.instance }} are not on disk yet", for_="5m",
        ),
        Alert(
            "FeedExplorationStopped",
            '(sum(rate(feed_slots_total{slot="exploration"}[1h])) or vector(0)) == 0', TICKETED,
            "No item is explored: nothing with a propensity is logged", for_="15m",
            guard=_enough_feeds("1h", 1000),
        ),
        *(
            Alert(
                name, f"feed_{metric} > feed_{metric}_limit", TICKETED,
                f"{{{{ $labels.{label} }}}}: {text} ({{{{ $value | humanize }}}})", for_="15m",
                guard=f"  and feed_{metric}_rows >= {LEAST_ROWS}",
            )
            for metric, (name, label, text) in limits.items()
        ),
        Alert(
            "FeedMonitorStale",
            "(time() - feed_monitor_last_success_timestamp_seconds > 900)\n"
            "  or absent(feed_monitor_last_success_timestamp_seconds)", TICKETED,
            "Drift, calibration and gaps are not being computed", for_="5m",
        ),
    ]  # fmt: skip


def groups() -> list[dict[str, Any]]:
    """The rule groups as Prometheus and the Prometheus operator read them."""
    # One group: its rules run in order, so an alert sees the ratio of the same moment.
    rules = [each.as_rule() for each in recordings()] + [each.as_rule() for each in alerts()]
    return [{"name": "feed", "rules": rules}]


def expressions() -> list[str]:
    """Every expression, recordings first."""
    return [each.expr for each in recordings()] + [each.expr for each in alerts()]


def metrics_of(expression: str) -> set[str]:
    """Metrics that a PromQL expression reads, by the grammar of promql-parser.

    Raises
    ------
    ValueError
        It does not parse; the message is the parser's.
    """
    import promql_parser as promql

    found: set[str] = set()

    def collect(expr: promql.Expr) -> None:
        if isinstance(expr, promql.VectorSelector) and expr.name:
            found.add(expr.name)

    promql.walk(promql.parse(expression), collect)
    return found


def rules_text() -> str:
    """``docker/rules.yml``."""
    return _yaml({"groups": groups()})


def kubernetes_text() -> str:
    """The PrometheusRule of the Prometheus operator, with the same groups."""
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "feed", "labels": {"app.kubernetes.io/name": "feed"}},
        "spec": {"groups": groups()},
    }
    return _yaml(manifest)


def _yaml(content: dict[str, Any]) -> str:
    import yaml

    class Readable(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Readable.add_representer(str, text)
    dumped: str = yaml.dump(content, Dumper=Readable, sort_keys=False, width=100)
    return "# Made by capstone/alerts.py: change it there.\n" + dumped


def write() -> Sequence[Path]:
    """Write both files; their paths."""
    for path, text in ((RULES_FILE, rules_text()), (KUBERNETES_RULES, kubernetes_text())):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return RULES_FILE, KUBERNETES_RULES


def rules_of(alert: Alert) -> list[dict[str, Any]]:
    """The rules of one alert: the recordings that it reads, and itself."""
    read = metrics_of(alert.expr)
    return [each.as_rule() for each in recordings() if each.record in read] + [alert.as_rule()]


if __name__ == "__main__":
    print("\n".join(str(path) for path in write()))
