"""The rollout's rule (exercise 7.13), and how windows become evidence."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import rollout_decision
from capstone.rollout_decision import (
    GUARDRAILS,
    ArmWindow,
    Evidence,
    Limits,
    Step,
    judge_windows,
)
from common.errors import InputError

STEP = Step("50 %", 0.5, feeds=1000, looks=20)
SAFE: dict[str, Any] = dict.fromkeys(GUARDRAILS, "safe")
BETTER, WORSE, UNKNOWN = (0.02, 0.2), (-0.3, -0.1), (-0.1, 0.15)


def decide(
    success: tuple[float, float],
    *,
    feeds: int = 2000,
    looks: int = 5,
    last: bool = True,
    margin: float = 0.0,
    **verdicts: str,
) -> str:
    evidence = Evidence(feeds, looks, SAFE | verdicts, success)
    return rollout_decision.next_action(STEP, evidence, last=last, margin=margin).action


@pytest.mark.exercise("7.13")
@pytest.mark.parametrize("guardrail", GUARDRAILS)
def test_a_broken_guardrail_sends_back_whatever_the_clicks_say(guardrail: str) -> None:
    """Bait earns clicks and hides. A guardrail is a promise that success cannot buy off."""
    for success in (BETTER, UNKNOWN, (-inf, inf)):
        for last in (True, False):
            found = decide(success, last=last, **{guardrail: "harm"})
            assert found == "rollback", (
                f"{guardrail} is harmed, clicks {success}, last={last}: {found!r}, not 'rollback'"
            )
    early = decide(UNKNOWN, feeds=10, **{guardrail: "harm"})
    assert early == "rollback", f"harm is certain after 10 feeds: {early!r}, not 'rollback'"


@pytest.mark.exercise("7.13")
def test_nobody_is_promoted_of_whom_nothing_could_be_shown() -> None:
    """An interval that holds 0 fits a loss: without proof no promotion, and time ends it."""
    found = decide(UNKNOWN)
    assert found == "wait", f"clicks {UNKNOWN} at look 5 of 20: {found!r}, not 'wait'"
    for name in GUARDRAILS:
        found = decide(BETTER, **{name: "undecided"})
        assert found == "wait", f"{name} is undecided on the last step: {found!r}, not 'wait'"
    found = decide(UNKNOWN, looks=20)
    assert found == "rollback", f"the planned looks are used up: {found!r}, not 'rollback'"
    found = decide(BETTER)
    assert found == "advance", f"all safe, clicks {BETTER}: {found!r}, not 'advance'"


@pytest.mark.exercise("7.13")
def test_a_dip_that_may_be_chance_sends_nobody_back() -> None:
    """Half of all equal candidates are below 0 at any look. Only a loss that is certain counts."""
    dip = (-0.2, 0.05)
    for last in (True, False):
        found = decide(dip, feeds=500, last=last)
        assert found == "wait", f"clicks {dip}, 500 of 1000 feeds: {found!r}, not 'wait'"
    found = decide(dip, last=False)
    assert found == "advance", f"clicks {dip} on an earlier step: {found!r}, not 'advance'"
    for last in (True, False):
        found = decide(WORSE, last=last)
        assert found == "rollback", f"a certain loss, clicks {WORSE}: {found!r}, not 'rollback'"


@pytest.mark.exercise("7.13")
def test_a_step_is_left_only_with_its_least_feeds() -> None:
    """A lucky first look must not hurry a candidate past the exposure that its step was given."""
    for last in (True, False):
        found = decide(BETTER, feeds=999, last=last)
        assert found == "wait", f"999 of 1000 feeds, last={last}: {found!r}, not 'wait'"
        found = decide(BETTER, feeds=1000, last=last)
        assert found == "advance", f"1000 of 1000 feeds, last={last}: {found!r}, not 'advance'"


@pytest.mark.exercise("7.13")
def test_a_margin_allows_a_small_loss_and_no_more() -> None:
    """With a margin the candidate need not win, only be shown not to lose by more than that."""
    small = (-0.05, 0.02)
    found = decide(small, margin=0.1)
    assert found == "advance", f"clicks {small}, margin 0.1: {found!r}, not 'advance'"
    found = decide(small, margin=0.04)
    assert found == "wait", f"clicks {small}, margin 0.04: {found!r}, not 'wait'"
    found = decide(WORSE, margin=0.2)
    assert found == "wait", f"clicks {WORSE}, margin 0.2: {found!r}, not 'wait'"
    found = decide(WORSE, margin=0.05)
    assert found == "rollback", f"clicks {WORSE}, margin 0.05: {found!r}, not 'rollback'"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    verdicts=st.lists(st.sampled_from(["harm", "safe", "undecided"]), min_size=4, max_size=4),
    low=st.floats(-1, 1),
    width=st.floats(0, 1),
    feeds=st.integers(0, 3000),
    looks=st.integers(1, 30),
    last=st.booleans(),
)
def test_more_evidence_of_safety_never_turns_a_promotion_round(
    verdicts: list[Any], low: float, width: float, feeds: int, looks: int, last: bool
) -> None:
    """A rule that punishes better news could be gamed by withholding it."""
    evidence = Evidence(
        feeds, looks, dict(zip(GUARDRAILS, verdicts, strict=True)), (low, low + width)
    )
    order = {"rollback": 0, "wait": 1, "advance": 2}
    worse = rollout_decision.next_action(STEP, evidence, last=last).action
    safer = Evidence(feeds, looks, SAFE, (low + 0.1, low + width + 0.1))
    better = rollout_decision.next_action(STEP, safer, last=last).action
    assert order[better] >= order[worse], (worse, better)


def window(n: int, *, clicks: float = 1.0, hidden: float = 0.02, **bad: int) -> ArmWindow:
    """n sessions with a variance of 1 in the clicks."""
    return ArmWindow(
        feeds=n, sessions=n, hidden=round(hidden * n), clicks=clicks * n,
        squares=(clicks**2 + 1) * n, **bad,
    )  # fmt: skip


def test_the_interval_of_the_clicks_holds_the_difference_and_narrows() -> None:
    """The interval is what promotes, so it must be about the right thing and tighten with data."""
    widths = []
    for n in (500, 5000, 50_000):
        found = judge_windows(window(n, clicks=1.1), window(n), Limits(), looks=1, steps=3)
        low, high = found.success
        assert low < 0.1 < high, (n, found.success)
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2], widths


def test_each_guardrail_is_judged_by_its_own_count() -> None:
    """A verdict under the wrong name would send people to look for the wrong fault."""
    old = window(5000)
    cases = {"errors": 400, "fallbacks": 500, "slow": 400}
    for name, count in cases.items():
        found = judge_windows(window(5000, **{name: count}), old, Limits(), looks=1, steps=3)
        harmed = [guardrail for guardrail, v in found.guardrails.items() if v == "harm"]
        assert harmed == [name], (name, found.guardrails)
    found = judge_windows(window(5000, hidden=0.06), old, Limits(), looks=1, steps=3)
    assert [name for name, v in found.guardrails.items() if v == "harm"] == ["hides"]
    healthy = judge_windows(window(20_000), window(20_000), Limits(), looks=1, steps=3)
    assert set(healthy.guardrails.values()) == {"safe"}, healthy.guardrails


def test_a_slow_machine_is_no_harm_of_the_candidate() -> None:
    """When both arms are slow the cause is not the bundle, and rolling back would not help."""
    both = judge_windows(window(3000, slow=300), window(3000, slow=300), Limits(), looks=1, steps=3)
    assert both.guardrails["slow"] == "undecided", both.guardrails
    alone = judge_windows(window(3000, slow=300), window(3000), Limits(), looks=1, steps=3)
    assert alone.guardrails["slow"] == "harm", alone.guardrails


def test_a_shadow_says_nothing_of_people() -> None:
    """Nobody saw its feeds: a verdict on hides or clicks would be made up."""
    found = judge_windows(ArmWindow(feeds=500), window(5000), Limits(), looks=1, steps=3)
    assert set(found.guardrails) == {"errors", "fallbacks"}, found.guardrails
    assert found.success == (-inf, inf), found.success


def test_windows_add_up() -> None:
    """A look's counts are sums over the looks before it."""
    total = window(100, errors=3) + window(50, slow=2)
    assert (total.feeds, total.errors, total.slow, total.clicks) == (150, 3, 2, 150.0)
    assert np.isclose(total.moments.mean, 1.0)


@pytest.mark.parametrize(
    "bad", [{"slow_ms": 0}, {"error_rate": 1.0}, {"hide_margin": 0}, {"alpha": 0.5}]
)
def test_limits_out_of_their_range_are_refused(bad: dict[str, float]) -> None:
    """A limit of 0 or 1 would switch a guardrail off, or make it always ring."""
    with pytest.raises(InputError, match=next(iter(bad))):
        Limits(**bad)
