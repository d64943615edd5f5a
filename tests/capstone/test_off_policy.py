"""Off-policy estimates from exploration slots: unbiased by the logged chances, refused without."""

from __future__ import annotations

import numpy as np
import pytest

from capstone.off_policy import (
    SlotPolicies,
    TwoArms,
    estimate_slots,
    ran_for_real,
    simulate_log,
    slot_policies,
    slot_rows,
    true_slot_value,
    whole_feed,
)
from common.errors import InputError
from tests.capstone.small_world import FILMS, PEOPLE, small_world, two_arms

SESSIONS = 4000


def policies(slots: int = 1, **more: float) -> SlotPolicies:
    return slot_policies(two_arms(), slots=slots, pool=20, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("slots", [1, 2])
def test_the_estimates_hold_the_true_value(slots: int) -> None:
    """The world knows what the candidate's draw would earn; weighting must find it from the log."""
    world, chosen = small_world(), policies(slots, target_sharpness=8.0)
    log = simulate_log(world, chosen, chosen.logger, SESSIONS, seed=1)
    rows = slot_rows(log, chosen)
    truth = true_slot_value(world, chosen, chosen.target)
    of_logger = true_slot_value(world, chosen, chosen.logger)
    assert truth > 1.2 * of_logger, "the candidate's draw must differ for the test to say anything"
    for found in estimate_slots(rows, 10, FILMS)[:3]:
        assert found.refused is None, found
        assert found.low <= truth <= found.high, (found, truth)
        assert not found.low <= of_logger <= found.high, (found, of_logger)
    served = ran_for_real(world, chosen, SESSIONS, seed=2)
    assert served.low <= truth <= served.high, (served, truth)


def test_the_logged_chances_are_of_the_item_in_its_slot() -> None:
    """The weight's denominator: summed over what could have been drawn it must be 1."""
    chosen = policies(2, sharpness=3.0)
    log = simulate_log(small_world(), chosen, chosen.logger, 2000, seed=3)
    rows = slot_rows(log, chosen)
    weights = rows.chosen / rows.logged
    assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(len(weights)), weights.mean()
    assert np.allclose(rows.target.sum(axis=1), 1)
    same = SlotPolicies(**{**vars(chosen), "target": chosen.logger})
    again = slot_rows(log, same)
    assert np.allclose(again.chosen, again.logged), "the logger against itself has weights of 1"


def test_a_uniform_draw_is_logged_as_one_in_the_pool() -> None:
    """With one slot and a uniform draw of 20, the chance in the slot is 1 / 20, by any place."""
    chosen = policies()
    rows = slot_rows(simulate_log(small_world(), chosen, chosen.logger, 300, seed=4), chosen)
    assert np.allclose(rows.logged, 1 / 20)
    assert (rows.item == rows.pool[np.arange(300), rows.action]).all()


def test_a_whole_feed_without_support_is_refused() -> None:
    """What the log never shows at its place has no clicks, and no number stands for it."""
    chosen = policies()
    log = simulate_log(small_world(), chosen, chosen.logger, 1000, seed=5)
    found = whole_feed(log, chosen, two_arms())
    assert found.refused is not None
    assert found.unsupported > 0.05
    same = TwoArms(two_arms().ids, two_arms().champion, two_arms().champion)
    nearly = whole_feed(log, chosen, same)
    assert nearly.unsupported == 0.0, "the champion's own feed is supported everywhere"


def test_rare_weight_is_refused() -> None:
    """A target that hardly ever agrees with the log rests on a few rows, however many there are."""
    chosen = policies(sharpness=0.0, target_sharpness=9.0)
    rows = slot_rows(simulate_log(small_world(), chosen, chosen.logger, 150, seed=6), chosen)
    assert estimate_slots(rows, 10, FILMS)[0].refused is not None


def test_too_few_candidates_are_refused() -> None:
    """A pool that is not there cannot be drawn from."""
    with pytest.raises(InputError, match="candidates"):
        slot_policies(two_arms(), pool=500)
    with pytest.raises(InputError, match="shape of candidate"):
        TwoArms(np.ones((PEOPLE, 3), int), np.ones((PEOPLE, 3)), np.ones((PEOPLE, 2)))
