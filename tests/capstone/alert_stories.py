"""What promtool plays to each alert: a story in which it fires, one in which it must not, and one
with the same trouble but too little traffic.

A series is written as promtool reads it: ``a+bxn`` is a, a + b, ... a + n*b, one value a minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OK = 'feed_requests_total{route="/feed",status="200"}'
FAILED = 'feed_requests_total{route="/feed",status="500"}'
CLIENTS = 'feed_requests_total{route="/feed",status="422"}'
COUNT, WITHIN = "feed_seconds_count", 'feed_seconds_bucket{le="0.05"}'
Series = Mapping[str, str]


@dataclass(frozen=True)
class Story:
    """Series, the moment to look at, and whether the alert fires then."""

    name: str
    series: Series
    at: str
    fires: bool
    interval: str = "1m"
    """Between samples and between evaluations: a story of days needs no minutes."""


@dataclass(frozen=True)
class Stories:
    bad: Story
    good: Story
    quiet: Story | None = field(default=None)
    """The trouble of ``bad`` below the alert's least traffic; None for one that needs none."""

    def __iter__(self):
        return iter([each for each in (self.bad, self.good, self.quiet) if each])


def feeds(
    per_minute: float, late: float, *, minutes: int, failed: float = 0, step: int = 1
) -> Series:
    """Traffic with a share ``late`` above 50 ms and ``failed`` answered 500; a value a step."""
    asked, steps = per_minute * step, minutes // step
    answered = asked * (1 - failed)
    return {
        OK: f"0+{answered:g}x{steps}",
        FAILED: f"0+{asked * failed:g}x{steps}",
        COUNT: f"0+{answered:g}x{steps}",
        WITHIN: f"0+{answered * (1 - late):g}x{steps}",
    }


def counted(name: str, bad: float, *, good: float = 0, at: str = "40m", **few: float) -> Stories:
    """An alert on a counter per feed: ``bad`` and ``good`` a minute, of 100 feeds a minute."""
    least = few.get("quiet", 2.0)

    def story(kind: str, rate: float, per_minute: float, fires: bool) -> Story:
        own = {name: f"0+{rate * per_minute / 100:g}x60", COUNT: f"0+{per_minute:g}x60"}
        return Story(kind, own, at, fires)

    return Stories(
        story("too many", bad, 100, True),
        story("few", good, 100, False),
        story("too many of hardly any feeds", bad, least, False),
    )


def limited(metric: str, label: str) -> Stories:
    """A statistic with a limit and its rows."""

    def story(name: str, value: float, rows: int, fires: bool) -> Story:
        series = {
            f'feed_{metric}{{{label}="a"}}': f"{value:g}+0x60",
            f'feed_{metric}_limit{{{label}="a"}}': "0.1+0x60",
            f'feed_{metric}_rows{{{label}="a"}}': f"{rows}+0x60",
        }
        return Story(name, series, "40m", fires)

    return Stories(
        story("above its limit", 0.2, 5000, True),
        story("below its limit", 0.09, 5000, False),
        story("above its limit, with few rows", 0.2, 150, False),
    )


def lasting(gauge: str) -> Stories:
    """A gauge that is 1 while something is away."""
    return Stories(
        Story("away", {gauge: "0+0x5 1+0x20"}, "15m", True),
        Story("away for a minute", {gauge: "0+0x10 1 0+0x20"}, "11m", False),
    )


def stage(p99_ms: int, per_minute: float) -> Series:
    within = {50: 0.999, 75: 0.5}[p99_ms]
    return {
        'feed_stage_seconds_bucket{stage="score",le="0.05"}': f"0+{per_minute * within:g}x60",
        'feed_stage_seconds_bucket{stage="score",le="0.1"}': f"0+{per_minute:g}x60",
        'feed_stage_seconds_bucket{stage="score",le="+Inf"}': f"0+{per_minute:g}x60",
        'feed_stage_seconds_count{stage="score"}': f"0+{per_minute:g}x60",
    }


REFUSED = 'feed_bundle_mismatch_total{part="index"}'
DISK = 'feed_event_log_errors_total{kind="reaction"}'
SLOT = 'feed_slots_total{slot="exploration"}'
UP = 'up{job="feed",instance="a"}'
PENDING = 'feed_event_log_pending{instance="a"}'
LAST = "feed_monitor_last_success_timestamp_seconds"

STORIES: dict[str, Stories] = {
    "FeedBudgetBurnsFast": Stories(
        Story("a fifth fails", feeds(100, 0.1, minutes=120, failed=0.1), "90m", True),
        Story("two bad minutes, then none", {
            OK: "0+100x200", COUNT: "0+100x200", WITHIN: "0+100x120 12000+0x2 12000+100x60",
            CLIENTS: "0+500x200",
        }, "124m", False),
        Story("a fifth of ten in the hour", feeds(0.15, 0.2, minutes=120), "90m", False),
    ),
    "FeedBudgetBurns": Stories(
        Story("8 % late for hours", feeds(100, 0.08, minutes=500, step=5), "7h", True, "5m"),
        Story("3 % late for hours", feeds(100, 0.03, minutes=500, step=5), "7h", False, "5m"),
        Story("8 % of few", feeds(0.15, 0.08, minutes=500, step=5), "7h", False, "5m"),
    ),
    "FeedBudgetBurnsSlowly": Stories(
        Story("1.5 % late for days", feeds(10, 0.015, minutes=5000, step=60), "80h", True, "1h"),
        Story("half of the budget", feeds(10, 0.005, minutes=5000, step=60), "80h", False, "1h"),
        Story("1.5 % of 700", feeds(0.16, 0.015, minutes=5000, step=60), "80h", False, "1h"),
    ),
    "FeedTargetDown": Stories(
        Story("no answer", {UP: "1+0x10 0+0x10"}, "15m", True),
        Story("one missed scrape", {UP: "1+0x10 0 1+0x10"}, "11m", False),
    ),
    "FeedAbsent": Stories(
        Story("nobody is scraped", {'up{job="monitor"}': "1+0x30"}, "10m", True),
        Story("a target that is down is not absent", {'up{job="feed"}': "0+0x30"}, "10m", False),
    ),
    "FeedNotReady": Stories(
        Story("not ready", {'feed_ready{instance="a"}': "1+0x5 0+0x20"}, "10m", True),
        Story("starting takes a minute", {'feed_ready{instance="a"}': "0 0 1+0x20"}, "2m", False),
    ),
    "FeedNoTraffic": Stories(
        Story("traffic stopped", {COUNT: "0+100x60 6000+0x60"}, "100m", True),
        Story("traffic", {COUNT: "0+100x120"}, "100m", False),
        Story("a service that nobody uses", {COUNT: "0+0.1x60 6+0x60"}, "100m", False),
    ),
    "FeedFallbacksHigh": counted('feed_fallbacks_total{stage="score",reason="down"}', 20, good=2),
    "FeedEmpty": counted("feed_empty_total", 1, good=0.05, quiet=20),
    "FeedShort": counted("feed_short_total", 20, good=2),
    "FeedStageSlow": Stories(
        Story("half of the requests above 50 ms", stage(75, 100), "30m", True),
        Story("one of a thousand", stage(50, 100), "30m", False),
        Story("half of three hundred", stage(75, 30), "30m", False),
    ),
    "FeedScorerUnavailable": lasting("feed_scorer_breaker_open"),
    "FeedUserStateDegraded": lasting("feed_user_state_degraded"),
    "FeedBundleMismatch": Stories(
        Story("a series that begins at 1", {REFUSED: "_x20 1+0x40"}, "25m", True),
        Story("one of yesterday", {REFUSED: "1+0x120"}, "100m", False),
    ),
    "FeedReplicasDisagree": Stories(
        Story("two bundles in one arm", {
            'feed_bundle_info{arm="a",version="1",checkpoint="c",instance="x"}': "1+0x60",
            'feed_bundle_info{arm="a",version="2",checkpoint="d",instance="y"}': "1+0x60",
        }, "50m", True),
        Story("two arms, two replicas each", {
            'feed_bundle_info{arm="a",version="1",checkpoint="c",instance="x"}': "1+0x60",
            'feed_bundle_info{arm="a",version="1",checkpoint="c",instance="y"}': "1+0x60",
            'feed_bundle_info{arm="b",version="2",checkpoint="d",instance="x"}': "1+0x60",
        }, "50m", False),
    ),
    "FeedEventLogFailing": Stories(
        Story("the disk is full", {DISK: "0+0x20 1+1x20"}, "25m", True),
        Story("an old fault", {DISK: "7+0x60"}, "50m", False),
    ),
    "FeedEventLogBehind": Stories(
        Story("a backlog", {PENDING: "20000+0x30"}, "20m", True),
        Story("a burst", {PENDING: "0+0x9 20000 0+0x20"}, "11m", False),
    ),
    "FeedExplorationStopped": Stories(
        Story("no explored item", {SLOT: "500+0x200", COUNT: "0+100x200"}, "150m", True),
        Story("some", {SLOT: "0+1x200", COUNT: "0+100x200"}, "150m", False),
        Story("a quiet night", {SLOT: "500+0x200", COUNT: "0+2x200"}, "150m", False),
    ),
    "FeedScoreDrift": limited("score_psi", "head"),
    "FeedCalibrationOff": limited("calibration_error", "head"),
    "FeedGroupGap": limited("group_gap", "attribute"),
    "FeedMonitorStale": Stories(
        Story("no result for half an hour", {LAST: "0+60x10 600+0x60"}, "45m", True),
        Story("a result a minute", {LAST: "0+60x60"}, "45m", False),
    ),
}  # fmt: skip
