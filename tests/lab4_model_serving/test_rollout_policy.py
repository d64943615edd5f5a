"""The rule of a rollout: intervals that may be looked at, and what follows from them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving import rollout_policy
from labs.lab4_model_serving.rollout_policy import Guardrails, Window, confidence_sequence

RAILS = Guardrails(p99_ms=50, error_rate=0.01, accuracy_margin=0.05, least_samples=30)
OLD = Window(requests=20_000, errors=4, slow=60, labelled=20_000, wrong=1500, mean_ms=8, p99_ms=30)
FINE = Window(requests=4000, errors=0, slow=4, labelled=4000, wrong=300, mean_ms=8, p99_ms=30)


def decided(new, old=OLD, *, samples=1000, last=False, steps=3):
    return rollout_policy.decide(new, old, RAILS, samples=samples, last=last, steps=steps)


@pytest.mark.exercise("4.13")
def test_a_version_that_keeps_every_limit_goes_on():
    """Enough requests and no harm: the next step; on the last one, with proof of safety, all."""
    for last in (False, True):
        found = decided(FINE, last=last)
        assert found.action == "advance", f"last = {last}: {found.action}, {found.reason}"


@pytest.mark.exercise("4.13")
def test_few_requests_decide_nothing():
    """5 requests, 2 of them slow, say little; 500 good ones are no 1000. Both wait.

    The first requests meet cold caches, and one pause of the machine hits several at once.
    """
    cold = Window(requests=5, errors=0, slow=2, labelled=0, wrong=0, mean_ms=60, p99_ms=120)
    assert decided(cold).action == "wait", f"5 requests, 2 slow: {decided(cold).action}"
    some = replace(FINE, requests=29, slow=29, errors=29, labelled=0, wrong=0)
    assert decided(some).action == "wait", f"29 of at least 30 requests: {decided(some).action}"
    half = replace(FINE, requests=500, slow=0, labelled=500, wrong=38)
    assert decided(half).action == "wait", f"500 of 1000 requests: {decided(half).action}"


@pytest.mark.exercise("4.13")
def test_a_slow_tail_goes_back_though_the_mean_is_better():
    """6 % above 50 ms is a p99 far above it, whatever the mean says. One request in 17 is late."""
    tail = Window(requests=400, slow=24, labelled=400, wrong=30, mean_ms=5, p99_ms=400)
    found = decided(tail)
    assert found.action == "rollback", f"6 % slow, mean 5 ms against 8: {found.action}"


@pytest.mark.exercise("4.13")
def test_a_share_that_chance_explains_does_not_go_back():
    """4 slow of 200 is 2 %, and not unlikely at 1 %: wait. At 30 of 200 it is certain.

    A rule on the plain share sends good versions back, and after some of those nobody believes it.
    """
    for slow, action in ((4, "wait"), (30, "rollback")):
        new = Window(requests=200, slow=slow, labelled=200, wrong=15, mean_ms=9, p99_ms=60)
        found = decided(new, samples=1000)
        assert found.action == action, f"{slow} of 200 slow: {found.action}, not {action}"


@pytest.mark.exercise("4.13")
def test_errors_go_back_even_when_what_is_answered_is_fast_and_right():
    """8 % errors, and the rest perfect: a version that drops the hard requests looks best."""
    new = Window(requests=1000, errors=80, slow=0, labelled=920, wrong=20, mean_ms=3, p99_ms=9)
    found = decided(new)
    assert found.action == "rollback", f"80 errors of 1000: {found.action}, {found.reason}"


@pytest.mark.exercise("4.13")
def test_wrong_answers_are_compared_with_the_old_version_and_the_margin():
    """Old 7.5 % wrong, margin 5 points: 25 % goes back, 10 % does not, and is not yet promoted."""
    for wrong, last, action in ((250, False, "rollback"), (100, False, "advance")):
        new = Window(requests=1000, slow=0, labelled=1000, wrong=wrong, mean_ms=8, p99_ms=30)
        found = decided(new, last=last)
        assert found.action == action, f"{wrong} of 1000 wrong: {found.action}, not {action}"
    unsure = replace(FINE, wrong=460)
    assert decided(unsure, last=True).action == "wait", "11.5 % against 7.5 + 5: not shown safe"


@pytest.mark.exercise("4.13")
def test_the_last_step_asks_for_proof():
    """No slow one of 200 is compatible with 5 %: no harm shown is not safety shown.

    The last step gives the new version everybody, so there "nothing was found" is not enough.
    """
    new = Window(requests=200, slow=0, labelled=200, wrong=15, mean_ms=8, p99_ms=30)
    found = decided(new, samples=100, last=True)
    assert found.action == "wait", f"last step with 200 requests: {found.action}"


@pytest.mark.exercise("4.13")
def test_what_hits_both_versions_is_not_the_new_ones_fault():
    """8 % slow on both: the machine had a pause. No harm of the new one, and no promotion."""
    old = replace(OLD, slow=1600)
    new = replace(FINE, slow=320)
    for last, action in ((False, "advance"), (True, "wait")):
        found = decided(new, old, last=last)
        assert found.action == action, f"both 8 % slow, last = {last}: {found.action}"


@pytest.mark.exercise("4.13")
def test_more_steps_make_each_more_careful():
    """alpha is for the whole rollout: what 1 step may decide, each of 1000 steps may not yet."""
    new = Window(requests=100, slow=8, labelled=0, mean_ms=8, p99_ms=60)
    few, many = decided(new, steps=1).action, decided(new, steps=10_000).action
    assert (few, many) == ("rollback", "wait"), f"1 step {few}, 10,000 steps {many}"


def test_the_checks_come_in_order_and_the_reason_has_the_numbers():
    """A person who is woken at night reads the reason: which limit, how far, on how many."""
    found = decided(Window(requests=1000, errors=80, slow=80, labelled=920, wrong=60))
    assert [check.name for check in found.checks] == ["p99", "errors", "accuracy"]
    assert [check.verdict for check in found.checks][:2] == ["harm", "harm"]
    assert found.reason.startswith("p99: harm: share above 50 ms")
    assert "n = 1000" in found.reason


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 3000), st.data(), st.sampled_from([0.001, 0.01, 0.05, 0.2]))
def test_the_interval_is_ordered_and_holds_the_observed_share(n, data, alpha):
    """0 <= low <= share <= high <= 1, and less alpha is wider."""
    bad = data.draw(st.integers(0, n))
    low, high = confidence_sequence(bad, n, alpha)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= bad / n <= high
    wider = confidence_sequence(bad, n, alpha / 2)
    assert wider[0] <= low
    assert wider[1] >= high


def test_the_interval_may_be_looked_at_after_every_request():
    """Of 400 streams at 10 %, few ever exclude 10 %; the plain 95 % interval often does.

    This is what makes a controller that looks all the time honest.
    """
    rng = np.random.default_rng(0)
    bad = np.cumsum(rng.random((400, 2000)) < 0.1, axis=1)
    n = np.arange(1, 2001)
    share = bad / n
    plain = np.abs(share - 0.1) > 1.96 * np.sqrt(share * (1 - share) / n)
    looked = n >= 50
    ever_plain = plain[:, looked].any(axis=1).mean()
    ever = np.mean([_ever_excludes(row, 0.1, 0.05) for row in bad])
    assert ever <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert ever_plain > 0.25, f"the plain interval excluded the truth in {ever_plain:.2f}"


def _ever_excludes(bad, share, alpha):
    # Every 40th look is enough to catch an excursion and quick enough for a test.
    for n in range(40, len(bad) + 1, 40):
        low, high = confidence_sequence(int(bad[n - 1]), n, alpha)
        if not low <= share <= high:
            return True
    return False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("p99_ms", 0.0),
        ("error_rate", 0.0),
        ("accuracy_margin", 1.0),
        ("alpha", 0.9),
        ("least_samples", 0),
        ("p99_ms", float("nan")),
    ],
)
def test_guardrails_out_of_range_are_refused_by_name(name, value):
    """A limit of 0 sends everything back, and one of 1 nothing: say so before the rollout."""
    with pytest.raises(InputError, match=name):
        Guardrails(**{name: value})
