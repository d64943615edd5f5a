"""The capstone's traps show what they claim."""

from __future__ import annotations

import pytest

from capstone.traps import TRAPS, batch_mates, sampled_metrics, tie_order


def test_another_order_of_ties_nearly_halves_ndcg() -> None:
    """The published .0735 belongs to file order; by item id the same model gets .0395."""
    trap = tie_order()
    assert trap.right[1] == pytest.approx(0.0735, abs=0.0005)
    assert trap.wrong[1] == pytest.approx(0.0395, abs=0.0005)


def test_sampled_negatives_flatter_the_same_scores() -> None:
    """Against 100 random films NDCG is several times higher, and comparable with nothing."""
    trap = sampled_metrics()
    assert trap.right[1] == pytest.approx(0.0735, abs=0.0005)
    assert isinstance(trap.wrong[1], float)
    assert 3 * 0.0735 < trap.wrong[1] < 1


def test_an_int8_score_moves_with_its_batch_mates() -> None:
    """In float32 a stranger in the batch changes nothing that matters."""
    trap = batch_mates()
    assert float(str(trap.wrong[1])) > 1e-4
    assert float(str(trap.right[1])) < 1e-6


def test_every_trap_explains_itself() -> None:
    """A number without a reason teaches nothing."""
    assert len(TRAPS) == 3
    assert all(trap.__doc__ for trap in TRAPS)
