"""The capstone's traps show what they claim."""

from __future__ import annotations

import re

import pytest

from capstone import evidence_traps, ranking_traps, serving_traps
from capstone.traps import TRAPS


def number(text: object) -> float:
    """The first number in what a trap shows."""
    found = re.search(r"[-+]?\d+\.?\d*", str(text))
    assert found is not None, text
    return float(found.group())


def test_another_order_of_ties_nearly_halves_ndcg() -> None:
    """The published .0735 belongs to file order; by item id the same model gets .0395."""
    trap = ranking_traps.tie_order()
    assert trap.right[1] == pytest.approx(0.0735, abs=0.0005)
    assert trap.wrong[1] == pytest.approx(0.0395, abs=0.0005)


def test_sampled_negatives_flatter_the_same_scores() -> None:
    """Against 100 random films NDCG is several times higher, and comparable with nothing."""
    trap = ranking_traps.sampled_metrics()
    assert trap.right[1] == pytest.approx(0.0735, abs=0.0005)
    assert 3 * 0.0735 < number(trap.wrong[1]) < 1


def test_a_world_that_knows_the_test_films_tells_them_to_its_log() -> None:
    """The clicks of the world fitted to everything raise NDCG by what nobody could know."""
    trap = ranking_traps.leaking_world()
    assert number(trap.wrong[1]) > number(trap.right[1]) + 0.01, (trap.wrong, trap.right)


def test_without_log_q_the_same_training_finds_much_less() -> None:
    """The loss curve looks the same: only recall shows it."""
    trap = ranking_traps.no_log_q()
    assert number(trap.wrong[1]) < 0.75 * number(trap.right[1]), (trap.wrong, trap.right)
    assert number(trap.right[1]) > 0.15, trap.right


def test_yesterdays_index_is_no_better_than_chance_and_is_refused() -> None:
    """Nothing but the version can tell the two indexes apart."""
    trap = ranking_traps.yesterdays_index()
    assert number(trap.wrong[1]) < 0.4 * number(trap.right[1]), (trap.wrong, trap.right)
    assert "expected 'today'" in trap.why


def test_an_items_order_depends_on_its_neighbours_without_the_mask() -> None:
    """With the mask not one pair may turn, however many other candidates there are."""
    trap = ranking_traps.candidates_that_see_each_other()
    assert number(trap.wrong[1]) > 2.0, trap.wrong
    assert number(trap.right[1]) == 0.0, trap.right


def test_downsampled_heads_choose_items_of_less_value() -> None:
    """The loss is in the value of what is shown, which no metric of one head can see."""
    trap = serving_traps.downsampled_heads_in_a_value()
    assert number(trap.wrong[1]) < 0.9 * number(trap.right[1]), (trap.wrong, trap.right)


def test_the_position_left_in_hides_good_items() -> None:
    """The same model finds nearly all of the best items when everything is scored at the top."""
    trap = serving_traps.position_left_in_at_serving()
    assert number(trap.right[1]) > number(trap.wrong[1]) + 20, (trap.wrong, trap.right)


def test_only_what_was_acknowledged_too_early_is_lost() -> None:
    """kill -9 takes what was in the process's buffer, and nothing that had been synced."""
    trap = serving_traps.acknowledged_before_fsync()
    assert number(trap.wrong[1]) >= 1, trap.wrong
    assert number(trap.right[1]) == 0, trap.right


def test_the_propensity_of_the_slot_hides_the_size_of_the_pool() -> None:
    """By the item's propensity the simulated truth of .3 comes back, within the noise."""
    trap = evidence_traps.slot_propensity()
    assert number(trap.right[1]) == pytest.approx(0.3, abs=0.02), trap.right
    assert number(trap.wrong[1]) < 0.05, trap.wrong


def test_leaving_fallbacks_out_turns_a_loss_into_a_gain() -> None:
    """Both are significant, with opposite signs; the sample ratio is what tells them apart."""
    trap = evidence_traps.fallbacks_left_out()
    assert number(trap.wrong[1]) > 0.02, trap.wrong
    assert number(trap.right[1]) < -0.02, trap.right
    srm = re.search(r"p = ([\d.e+-]+)\)", trap.why)
    assert srm is not None, trap.why
    assert float(srm.group(1)) < 0.001


def test_a_fixed_drift_cutoff_is_wrong_at_both_ends() -> None:
    """Alarms without a change at 100 rows, and no change found at 10,000."""
    trap = evidence_traps.fixed_drift_cutoff()
    (false, power), (false_null, power_null) = (
        [number(part) for part in str(side[1]).split("; ")] for side in (trap.wrong, trap.right)
    )
    assert false > 20 > 5 > false_null, (trap.wrong, trap.right)
    assert power < 5 < 95 < power_null, (trap.wrong, trap.right)


def test_every_trap_explains_itself() -> None:
    """A number without a reason teaches nothing."""
    assert len(TRAPS) == 12
    assert all(trap.__doc__ for trap in TRAPS)
