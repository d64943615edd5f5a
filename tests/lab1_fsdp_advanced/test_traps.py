"""The traps of lab 1 show what they say: the wrong number is wrong, the right one right."""

import subprocess
import sys
from pathlib import Path

import pytest

from labs.lab1_fsdp_advanced import traps
from labs.lab1_fsdp_advanced.trap_measures import MEASURES, TINY, regression

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = (8 * 16 + 16) + (16 * 4 + 4)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    """What the two ranks measured; the traps read the same answers."""
    return traps.on_two_ranks()


def test_every_trap_shows_two_numbers_of_one_job(measured):
    """The ranks start once and take every measure; a trap whose two numbers agree shows nothing."""
    assert list(measured) == [measure.__name__ for measure in MEASURES]
    for trap in traps.TRAPS:
        assert trap().wrong[1] != trap().right[1], trap.__name__


def test_an_optimizer_built_before_sharding_trains_nothing():
    """The loss stays where a model without any step has it; built afterwards it falls."""
    trap = traps.the_optimizer_of_the_old_weights()
    model, x, y = regression()
    untrained = (model(x) - y).square().mean().item()
    assert trap.wrong[1] == pytest.approx(untrained, rel=1e-4)
    assert trap.right[1] < untrained / 10


def test_seeds_of_their_own_stitch_a_weight_from_two_models():
    """Rank 0 contributes the first half of the rows, rank 1 the second, from another model."""
    trap = traps.a_weight_of_two_models()
    assert trap.wrong[1] == 2
    assert trap.right[1] == 4


def test_one_seed_for_the_data_gives_both_ranks_the_same_batch():
    """2 x 8 examples are 16 different ones, or 8 of them twice."""
    trap = traps.one_batch_on_every_rank()
    assert trap.wrong[1] == 8
    assert trap.right[1] == 16


def test_a_batch_drawn_twice_is_as_noisy_as_half_of_it(measured):
    """Variance falls as 1 / batch: twice the examples, half of it (less, without replacement)."""
    noise = measured["batches"]
    assert noise["noise, shuffle"] / noise["noise, sampler"] == pytest.approx(2, rel=0.3)


def test_one_seed_drops_the_same_units_on_both_ranks(measured):
    """Independent masks of dropout 0.5 agree in half of the places, 10,000 coins: +- 0.02."""
    assert measured["batches"]["dropout, one seed"] == 1
    assert measured["batches"]["dropout, seed of its own"] == pytest.approx(0.5, abs=0.02)


def test_a_sampler_that_is_not_told_the_epoch_repeats_it(measured):
    """Every batch of the second epoch was one of the first; told the epoch, none was."""
    assert measured["epochs"] == {"plain": 16, "set_epoch": 0}


def test_padding_counts_some_examples_twice(measured):
    """164 examples on 64 ranks become 3 each, 192; without the copies the score is the true one."""
    trap = traps.rows_counted_twice()
    found = measured["padding"]
    assert found["rows"] == 192
    assert trap.right[1] == found["one process"]
    assert abs(trap.wrong[1] - found["one process"]) > 0.005


def test_a_mean_of_means_is_not_the_gradient_of_the_batch(measured):
    """One process that sees all tokens decides; unequal counts are what makes the two differ."""
    trap = traps.a_mean_of_means()
    assert measured["means"]["rank 0"] > 4 * measured["means"]["rank 1"]
    assert trap.wrong[1] > 0.1
    assert trap.right[1] < 1e-5


def test_the_norm_of_a_shard_is_not_the_norm_of_the_gradient(measured):
    """One process that sees the whole batch decides which of the two is right."""
    trap = traps.the_norm_of_a_shard()
    one_process = measured["norm"]["one process"]
    assert trap.right[1] == pytest.approx(one_process, rel=1e-5)
    assert trap.wrong[1] < 0.9 * one_process


def test_without_synchronisation_each_rank_holds_whole_gradients_unseen(measured):
    """fp32: 4 bytes a parameter, all of them on each rank; with synchronisation half of them."""
    trap = traps.gradients_out_of_sight()
    assert trap.wrong[1] == 0
    assert trap.right[1] == 4 * PARAMETERS
    found = measured["unsynchronised"]
    assert found["p.grad, sync on"] == found["held, sync on"] == 4 * PARAMETERS / 2


def test_synchronisation_left_on_costs_a_reduction_for_each_micro_batch(measured):
    """The model is one group: 8 reduce-scatters or 1, and the same gradient to rounding."""
    assert measured["reductions"]["every"] == 8
    assert measured["reductions"]["last"] == 1
    assert measured["reductions"]["difference"] < 1e-6


def test_without_a_scaler_most_of_an_fp16_gradient_is_zero(measured):
    """In fp32 and in bf16, which has the range of fp32, next to nothing is."""
    trap = traps.gradients_that_become_zero()
    assert trap.wrong[1] > 0.5
    assert trap.right[1] < 0.001
    assert measured["flushed"]["zeros, fp32"] == 0
    assert measured["flushed"]["zeros, bf16"] < 0.001


def test_a_scaled_fp16_gradient_is_that_of_fp32(measured):
    """The zeros are not harmless: without the scaler the gradient is another one."""
    assert measured["flushed"]["difference, scaled"] < 0.002
    assert measured["flushed"]["difference, fp16"] > 10 * measured["flushed"]["difference, scaled"]


def test_bf16_weights_of_one_never_move(measured):
    """Five norms of TINY.width weights. The loss gives no hint: it falls in both."""
    trap = traps.updates_that_round_away()
    found = measured["weights"]
    assert found["of"] == 5 * TINY.width
    assert trap.wrong[1] == 0
    assert trap.right[1] == 5 * TINY.width
    assert found["last loss, bf16"] < 0.95 * found["first loss, bf16"]
    assert found["last loss, bf16"] == pytest.approx(found["last loss, fp32"], rel=0.05)


def test_a_long_sum_in_bf16_stops_growing(measured):
    """Against fp32 in one process; products in bf16 alone cost far less."""
    sums = measured["sums"]
    assert sums["bf16"] > 0.02
    assert sums["fp32"] < 0.005
    assert sums["norm, bf16"] < 0.98
    assert sums["norm, fp32"] == pytest.approx(1, abs=0.002)


def test_recomputation_with_other_dropout_gives_another_gradient():
    """Without checkpointing decides: kept, the gradient is equal to the last bit."""
    trap = traps.another_dropout_in_the_backward_pass()
    assert trap.wrong[1] > 0.05
    assert trap.right[1] == 0


def test_a_counter_of_operations_counts_the_recomputation(measured):
    """Without checkpointing it agrees with the formula for MFU, with it with that for HFU."""
    trap = traps.recomputation_in_the_mfu()
    found = measured["operations"]
    assert trap.right[1] == found["model"] == found["counted, none"]
    assert trap.wrong[1] == found["counted, full"] == found["hardware"]
    assert trap.wrong[1] > 1.2 * trap.right[1]


def test_a_resume_without_moments_jumps(measured):
    """With them, the ten steps are those of a run that nobody interrupted."""
    trap = traps.a_resume_without_moments()
    assert trap.right[1] == measured["moments"]["uninterrupted"]
    assert trap.wrong[1] > 10 * measured["moments"]["before"]


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
