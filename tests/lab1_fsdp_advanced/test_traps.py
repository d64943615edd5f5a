"""The traps of lab 1 show what they say: the wrong number is wrong, the right one right."""

import subprocess
import sys
from pathlib import Path

import pytest

from labs.lab1_fsdp_advanced import traps

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = (8 * 16 + 16) + (16 * 4 + 4)

pytestmark = pytest.mark.slow


def test_an_optimizer_built_before_sharding_trains_nothing():
    """The loss stays where a model without any step has it; built afterwards it falls."""
    trap = traps.the_optimizer_of_the_old_weights()
    model, x, y = traps._regression()
    untrained = (model(x) - y).square().mean().item()
    assert trap.wrong[1] == pytest.approx(untrained, rel=1e-4)
    assert trap.right[1] < untrained / 10


def test_seeds_of_their_own_stitch_a_weight_from_two_models():
    """Rank 0 contributes the first half of the rows, rank 1 the second, from another model."""
    trap = traps.a_weight_of_two_models()
    assert trap.wrong[1] == 2
    assert trap.right[1] == 4


def test_the_norm_of_a_shard_is_not_the_norm_of_the_gradient():
    """One process that sees the whole batch decides which of the two is right."""
    trap = traps.the_norm_of_a_shard()
    one_process = traps._on_two_ranks()["measure_norm"]["one process"]
    assert trap.right[1] == pytest.approx(one_process, rel=1e-5)
    assert trap.wrong[1] < 0.9 * one_process


def test_without_synchronisation_each_rank_holds_whole_gradients_unseen():
    """fp32: 4 bytes a parameter, all of them on each rank; with synchronisation half of them."""
    trap = traps.gradients_out_of_sight()
    assert trap.wrong[1] == 0
    assert trap.right[1] == 4 * PARAMETERS
    found = traps._on_two_ranks()["measure_sync"]
    assert found["p.grad, sync on"] == found["held, sync on"] == 4 * PARAMETERS / 2


def test_one_trap_can_be_shown_alone():
    """The command of the lesson prints both numbers, and the trap's name to ask for."""
    shown = subprocess.run(
        [sys.executable, "-m", "labs.lab1_fsdp_advanced.traps", "a_weight_of_two_models"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shown.returncode == 0, shown.stderr
    assert "wrong" in shown.stdout
    assert "right" in shown.stdout
    assert "the_norm_of_a_shard" not in shown.stdout
