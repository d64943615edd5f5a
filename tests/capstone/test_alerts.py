"""The alerts: their arithmetic, the rules promtool plays, and the files made from the list."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import alerts
from common.errors import InputError
from labs.lab4_model_serving.burn_rate import FAST, WORKBOOK, burn_rates, firing, incidents
from labs.lab4_model_serving.prometheus import check_rules, run_rule_tests
from tests.capstone.alert_stories import STORIES, Story

ROOT = Path(__file__).parents[2]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (apt-get install prometheus)",
)


# --- the rule, as arithmetic ------------------------------------------------------------------


def _fires(bad_long, total_long, bad_short, total_short, *, least=20):
    found = alerts.budget_burns(
        bad_long, total_long, bad_short, total_short, threshold=14.4, budget=0.01, least=least
    )
    return np.asarray(found).tolist()


@pytest.mark.exercise("7.11")
def test_both_windows_must_burn() -> None:
    """The long window keeps a blip from paging, the short one ends the page after the repair."""
    found = _fires([200, 200, 10, 10], [1000] * 4, [20, 1, 20, 1], [100] * 4)
    assert found == [True, False, False, False], (
        f"20 % bad of an hour and 5 minutes, then of one of them, then of none: {found}"
    )


@pytest.mark.exercise("7.11")
def test_a_quiet_night_pages_nobody() -> None:
    """One bad request of three is 33 %, and says nothing about the service."""
    found = _fires([1, 6, 7], [3, 19, 20], [1, 6, 7], [3, 19, 20])
    assert found == [False, False, True], f"3, 19 and 20 requests with least = 20: {found}"


@pytest.mark.exercise("7.11")
def test_what_is_compared_is_the_burn_rate_and_strictly() -> None:
    """At 1 % of budget 14.4 is a share of 14.4 %; at the threshold itself nothing fires."""
    found = _fires([144, 145, 1440], [1000, 1000, 10_000], [144, 145, 1440], [1000, 1000, 10_000])
    assert found == [False, True, False], f"14.4 %, 14.5 % and 14.4 % bad: {found}"


@pytest.mark.exercise("7.11")
def test_no_requests_are_no_trouble() -> None:
    """0 of 0 is not a number; an alert on it would fire or fail every night."""
    found = _fires([300, 0], [1000, 0], [0, 0], [0, 0], least=0)
    assert found == [False, False], f"nothing in the short window, then nothing at all: {found}"


@pytest.mark.parametrize("rule", WORKBOOK, ids=lambda rule: rule.name)
def test_with_much_traffic_the_rule_is_lab_4s(rule) -> None:
    """The guard changes nothing where it is not needed."""
    for each in incidents(per_minute=500, seed=3):
        long, short = (
            (
                burn_rates(each.bad, each.total, window, 0.01) * 0.01 * 1e6,
                np.full(len(each.bad), 1e6),
            )
            for window in (rule.long_min, rule.short_min)
        )
        ours = alerts.budget_burns(*long, *short, threshold=rule.threshold, budget=0.01, least=100)
        assert (ours == firing(each.bad, each.total, rule, 0.01)).mean() > 0.9999, each.name


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 400), st.integers(0, 400), st.integers(1, 10))
def test_more_bad_requests_never_end_an_alert(total: int, bad: int, more: int) -> None:
    """An outage that grows must not look like a repair."""
    bad, total = min(bad, total), total + more
    before = _fires(bad, total, bad, total)
    after = _fires(bad + more, total, bad + more, total)
    assert after or not before, (bad, total, more)


# --- the least traffic ------------------------------------------------------------------------


@pytest.mark.parametrize("rule", WORKBOOK, ids=lambda rule: rule.name)
def test_the_least_traffic_is_what_the_binomial_says(rule) -> None:
    """The constant in the rules is computed, not felt."""
    assert alerts.LEAST_REQUESTS[rule.name] == alerts.least_requests(rule.threshold * alerts.BUDGET)


def test_at_the_least_traffic_a_healthy_hour_is_silent_and_just_below_it_is_not() -> None:
    """Exact binomial tails on both sides of the bound."""
    from scipy.stats import binom

    share = FAST.threshold * alerts.BUDGET
    n = alerts.least_requests(share)

    def chance(m: int) -> float:
        return float(binom.sf(np.floor(share * m), m, alerts.HEALTHY_SHARE))

    assert chance(n) <= alerts.FALSE_ALARM < chance(n - 1)
    with pytest.raises(InputError, match="bad_share"):
        alerts.least_requests(0.001)


# --- the rules, in promtool -------------------------------------------------------------------


def _test_of(alert: str, story: Story) -> dict:
    asked = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    return {
        "name": f"{alert}: {story.name}",
        "interval": story.interval,
        "input_series": [
            {"series": series, "values": values} for series, values in story.series.items()
        ],
        "promql_expr_test": [
            {"expr": asked, "eval_time": story.at, "exp_samples": [{"value": int(story.fires)}]}
        ],
    }


def test_every_alert_has_its_stories() -> None:
    """An alert that was never seen to fire is a comment."""
    assert set(STORIES) == {each.name for each in alerts.alerts()}
    for each in alerts.alerts():
        own = STORIES[each.name]
        assert own.bad.fires, each.name
        assert not own.good.fires, each.name
        assert bool(each.guard) == (own.quiet is not None), f"{each.name}: guard and quiet story"


def _test_file(folder: Path, alert: alerts.Alert, stories: Sequence[Story]) -> Path:
    """A file for promtool (JSON is YAML): the alert, the recordings it reads, and its stories."""
    rules, tests = folder / f"{alert.name}.rules", folder / f"{alert.name}.yml"
    group = {"name": "feed", "rules": alerts.rules_of(alert)}
    rules.write_text(json.dumps({"groups": [group]}), encoding="utf-8")
    content = {
        "rule_files": [str(rules)],
        "evaluation_interval": stories[0].interval,
        "tests": [_test_of(alert.name, story) for story in stories],
    }
    tests.write_text(json.dumps(content), encoding="utf-8")
    return tests


@needs_promtool
def test_each_alert_fires_in_its_bad_story_only(tmp_path: Path) -> None:
    """promtool plays its stories to every alert: trouble, an ordinary day, too little traffic."""
    files = [_test_file(tmp_path, each, [*STORIES[each.name]]) for each in alerts.alerts()]
    assert run_rule_tests(*files).count("SUCCESS") == len(files)


@needs_promtool
def test_a_story_that_does_not_hold_is_found(tmp_path: Path) -> None:
    """The test above can fail: the bad story of an alert, told as a good one."""
    (alert,) = [each for each in alerts.alerts() if each.name == "FeedFallbacksHigh"]
    wrong = replace(STORIES[alert.name].bad, fires=False)
    with pytest.raises(InputError, match="FeedFallbacksHigh"):
        run_rule_tests(_test_file(tmp_path, alert, [wrong]))


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    """Syntax, types and templates of the file that the stack loads."""
    check_rules(alerts.RULES_FILE)


def test_the_files_are_what_the_list_makes() -> None:
    """``python -m capstone.alerts`` after a change, and they are again."""
    assert alerts.RULES_FILE.read_text(encoding="utf-8") == alerts.rules_text()
    assert alerts.KUBERNETES_RULES.read_text(encoding="utf-8") == alerts.kubernetes_text()
    inside = yaml.safe_load(alerts.kubernetes_text())["spec"]
    assert inside == yaml.safe_load(alerts.rules_text())


def test_every_alert_leads_to_its_runbook() -> None:
    """At night the link is what is read: five headed parts under the alert's own name."""
    text = (ROOT / alerts.RUNBOOKS).read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    )
    assert set(sections) == {each.name for each in alerts.alerts()}
    for name, section in sections.items():
        for part in ("Meaning", "Impact", "First look", "Action", "Verification"):
            assert f"**{part}.**" in section, f"{name} has no {part}"


def test_every_alert_pages_or_is_a_ticket_and_names_no_user() -> None:
    """Two severities, two routes; the summary has a number or a label to look at."""
    for each in alerts.alerts():
        assert each.severity in ("page", "ticket"), each.name
        rule = each.as_rule()
        assert rule["annotations"]["runbook_url"].endswith(f"#{each.name.lower()}")
        assert "user_id" not in each.expr


def test_names_of_metrics_come_from_the_grammar() -> None:
    """A label or a string that looks like a metric is none, and bad syntax is said."""
    found = alerts.metrics_of('sum by (a) (rate(b_total{c="d"}[5m] offset 1h)) / on (a) e > bool 3')
    assert found == {"b_total", "e"}
    with pytest.raises(ValueError):
        alerts.metrics_of("sum(rate(b_total[5m])")
