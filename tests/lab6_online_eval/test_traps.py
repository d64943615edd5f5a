"""Every trap shows a wrong number and a right one, and they differ as the text says."""

from __future__ import annotations

import re

import pytest

from labs.lab6_online_eval import traps


def numbers(text: object) -> list[float]:
    return [float(found) for found in re.findall(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?", str(text))]


def test_one_hash_pass_makes_two_experiments_depend_on_each_other() -> None:
    """All four cells should hold 25,000 users."""
    assert traps.one_hash_pass().wrong[1] == [[23600, 26514], [26268, 23618]]
    assert min(min(row) for row in traps.one_hash_pass().right[1]) > 24_500


def test_an_exposure_in_one_code_path_makes_an_effect_and_a_mismatch() -> None:
    """An A/A test: the broken log shows a significant gain, and only the sizes give it away."""
    shown = traps.exposure_in_one_code_path()
    effect, p, mismatch = numbers(shown.wrong[1])
    assert effect > 5
    assert p < 0.01
    assert mismatch < 1e-3
    effect, p, mismatch = numbers(shown.right[1])
    assert p > 0.05
    assert mismatch > 1e-3


def test_events_as_users_find_nothing_most_of_the_time() -> None:
    """Four A/A tests in five are significant when each rating counts as a user."""
    shown = traps.ratings_as_units()
    assert shown.wrong[1] > 0.5 > 0.1 > shown.right[1]


def test_a_late_covariate_takes_the_effect_away() -> None:
    """The simulated lift is 0.2 stars."""
    shown = traps.covariate_after_treatment()
    assert shown.wrong[1] < 0.1
    assert shown.right[1] == pytest.approx(0.2, abs=0.02)


def test_peeking_finds_a_quarter_of_nothing_and_the_sequence_does_not() -> None:
    """About .248 with 20 looks; the confidence sequence stays at .05 or below."""
    shown = traps.peeking()
    assert shown.wrong[1] == pytest.approx(0.248, abs=0.01)
    assert shown.right[1] <= 0.05


def test_a_silent_guardrail_lets_harm_pass() -> None:
    """A loss of twice the margin passes most of the time by silence, hardly ever by proof."""
    shown = traps.guardrail_that_saw_nothing()
    assert shown.wrong[1] > 0.5
    assert shown.right[1] < 0.05


def test_randomised_users_report_twice_the_gain_of_a_launch() -> None:
    """Clusters are on the true total effect of about 0.068, users far above it."""
    shown = traps.users_who_share_a_stock()
    assert shown.wrong[1] > 1.9 * shown.right[1]
    assert 0.05 < shown.right[1] < 0.085


def test_a_draft_without_a_coin_prefers_a_ranker_to_itself() -> None:
    """An A/A test by interleaving: only the coin keeps the first place fair."""
    shown = traps.draft_without_a_coin()
    wrong, right = (float(side[1].split("p = ")[1]) for side in (shown.wrong, shown.right))
    assert wrong < 1e-6
    assert right > 0.01


def test_the_first_week_of_a_novelty_excludes_the_truth_and_the_fit_does_not() -> None:
    """The true long-run effect is the first number of the explanation."""
    shown = traps.novelty_as_long_run()
    truth = numbers(shown.why)[0]
    _, low, _high = numbers(shown.wrong[1])
    assert low > truth
    _, low, high = numbers(shown.right[1])
    assert low < truth < high


def test_dropping_users_without_events_turns_the_sign() -> None:
    """More buyers who spend less: worth 0.25 a user, and a loss of some 5 a buyer."""
    shown = traps.units_without_events_dropped()
    assert shown.wrong[1] < -3
    assert 0.1 < shown.right[1] < 0.4


def test_an_estimate_of_two_rows_is_refused() -> None:
    """IPW says 7.44 per 1,000 where the policy's own log has 4.6."""
    shown = traps.estimate_of_two_rows()
    assert shown.wrong[1] == pytest.approx(7.4376, abs=1e-3)
    assert shown.right[1] == "refused: effective sample size 2.1 rows; at least 100"
    assert "21,739" in shown.why
    assert "says 4.6" in shown.why


def test_the_survey_says_minus_8498_and_the_experiment_plus_1794() -> None:
    """The published answers of the observational comparison and of the experiment."""
    shown = traps.survey_for_a_control_group()
    assert (shown.wrong[1], shown.right[1]) == (-8498, 1794)
