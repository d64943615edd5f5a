"""Who answers: shares, stickiness and independence of the choice; what the windows count."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving import traffic
from labs.lab4_model_serving.traffic import TrafficWindows, choose_version, unit_hash

USERS = [f"user-{i}" for i in range(10_000)]


def chosen(weights, salt="rollout", users=USERS):
    return {user: traffic.choose_version(user, weights, salt) for user in users}


@pytest.mark.exercise("4.12")
def test_every_version_answers_as_often_as_its_weight_says():
    """Shares follow the weights, whatever they add up to, and a small one is not twice its size.

    A canary at 1 % that really gets 2 % hurts twice as many users.
    """
    counts = Counter(chosen({"1.0": 6.9, "2.0": 3.0, "3.0": 0.1}).values())
    for version, weight in (("1.0", 6900), ("2.0", 3000), ("3.0", 100)):
        tolerance = 4.5 * (weight * (1 - weight / 10_000)) ** 0.5
        assert abs(counts[version] - weight) < tolerance, (
            f"{version}: {counts[version]} of 10,000 users, should be about {weight}"
        )


@pytest.mark.exercise("4.12")
def test_a_user_stays_with_a_version():
    """The same user, weights and salt give the same version every time.

    With a choice a request, one user sees old and new pages in turn, and nobody can say which
    version they complained about.
    """
    weights = {"1.0": 0.5, "2.0": 0.5}
    first, again = chosen(weights, users=USERS[:500]), chosen(weights, users=USERS[:500])
    moved = [user for user in first if first[user] != again[user]]
    assert moved == [], f"{len(moved)} of 500 users got another version when asked again"


@pytest.mark.exercise("4.12")
@pytest.mark.parametrize(
    ("before", "after", "raised"),
    [
        ({"1.0": 0.95, "2.0": 0.05}, {"1.0": 0.75, "2.0": 0.25}, "2.0"),
        ({"1.0": 0.8, "2.0": 0.1, "3.0": 0.1}, {"1.0": 0.8, "2.0": 0.1, "3.0": 0.4}, "3.0"),
        ({"1.0": 0.8, "2.0": 0.1, "3.0": 0.1}, {"1.0": 1.6, "2.0": 0.1, "3.0": 0.1}, "1.0"),
    ],
)
def test_raising_a_weight_moves_users_to_it_and_nowhere_else(before, after, raised):
    """Whoever changes the version gets the raised one; so a growing canary gives no user back.

    A user who is moved to the new version, back and there again sees the worst of both.
    """
    old, new = chosen(before), chosen(after)
    moved = Counter((old[user], new[user]) for user in USERS if old[user] != new[user])
    astray = {pair: n for pair, n in moved.items() if pair[1] != raised}
    assert astray == {}, f"raised {raised}, but users moved {astray} (from, to)"
    assert moved, f"nobody moved to {raised}"


@pytest.mark.exercise("4.12")
@pytest.mark.parametrize("salts", [("intents 2.0", "intents 2.1"), ("a", "bb")])
def test_another_salt_is_another_sample(salts):
    """Of the 10 % with one rollout's new version, 10 % are also in another's: 1 % of all.

    Otherwise the same users are the first to meet every bug, or two experiments are one.
    """
    weights = {"1.0": 0.9, "2.0": 0.1}
    one, other = (chosen(weights, salt) for salt in salts)
    both = sum(one[user] == other[user] == "2.0" for user in USERS)
    assert 55 < both < 145, f"{both} of 10,000 users are in both samples, should be about 100"


@pytest.mark.exercise("4.12")
def test_no_weight_means_no_requests():
    """A version of weight 0 answers nobody: it is how a bad one is taken out."""
    for weights in ({"1.0": 1.0, "2.0": 0.0}, {"2.0": 0, "1.0": 3}):
        counts = Counter(chosen(weights).values())
        assert counts == {"1.0": 10_000}, f"weights {weights} gave {dict(counts)}"


@pytest.mark.parametrize(
    "weights", [{}, {"1.0": 0.0}, {"1.0": 1.0, "2.0": -0.1}, {"1.0": float("nan")}]
)
def test_weights_that_name_nobody_are_refused(weights):
    """A typo in a rollout file must not send everybody to the first version of a dict."""
    with pytest.raises(InputError, match="weights"):
        choose_version("user", weights, "salt")


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.text(), min_size=1, max_size=3), st.lists(st.text(), min_size=1, max_size=3))
def test_only_the_same_parts_have_the_same_hash(one, other):
    """("ab", "c") is not ("a", "bc"): users of one salt are not mistaken for those of another."""
    assert 0 < unit_hash(*one) < 1
    assert (unit_hash(*one) == unit_hash(*other)) == (one == other)


def test_a_failed_request_is_slow_too():
    """A version that fails at once would otherwise have the best p99 of all."""
    windows = TrafficWindows(0.05)
    windows.observe("a", "1.0", 0.01, "alarm")
    windows.observe("b", "1.0", 0.09, "alarm")
    windows.observe("c", "1.0", 0.001)
    window = windows.windows()["1.0"]
    assert (window.requests, window.errors, window.slow) == (3, 1, 2)
    assert window.mean_ms == pytest.approx(50)
    assert window.p99_ms == pytest.approx(90)


def test_a_label_comes_later_and_counts_once():
    """Labels find the version that answered, are counted once, and not for what is unknown."""
    windows = TrafficWindows()
    windows.observe("a", "1.0", 0.01, "alarm")
    windows.observe("b", "2.0", 0.01, "alarm")
    windows.observe("c", "2.0", 0.01)
    assert windows.feedback("a", "alarm")
    assert windows.feedback("b", "balance")
    assert not windows.feedback("b", "alarm"), "the same answer was labelled twice"
    assert not windows.feedback("c", "alarm"), "a failed request has no answer to label"
    assert not windows.feedback("never", "alarm")
    found = windows.windows()
    assert (found["1.0"].labelled, found["1.0"].wrong) == (1, 0)
    assert (found["2.0"].labelled, found["2.0"].wrong, found["2.0"].accuracy) == (1, 1, 0.0)


def test_answers_that_wait_for_a_label_are_bounded():
    """Most answers never get a label; remembering them all is a leak."""
    windows = TrafficWindows(remember=10)
    for i in range(1000):
        windows.observe(str(i), "1.0", 0.01, "alarm")
    assert not windows.feedback("0", "alarm")
    assert windows.feedback("999", "alarm")


def test_a_new_window_has_another_id_and_takes_labels_of_earlier_answers():
    """A controller sees from the id that its counts are gone; a late label is still of use."""
    windows = TrafficWindows(0.05)
    windows.observe("a", "1.0", 0.01, "alarm")
    before = windows.id
    assert windows.reset(0.1) == windows.id != before
    assert windows.windows() == {}
    assert windows.feedback("a", "balance")
    assert windows.windows()["1.0"].requests == 0
    assert windows.windows()["1.0"].wrong == 1
