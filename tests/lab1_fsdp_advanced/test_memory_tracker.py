"""FSDPMemTracker on fake tensors: worlds that are not here, against formula and theory."""

from dataclasses import asdict, replace

import pytest

from common.errors import RunError
from labs.lab1_fsdp_advanced.memory import Held
from labs.lab1_fsdp_advanced.memory_tracker import (
    Case,
    Compared,
    figure,
    held_from,
    predict,
    predict_all,
)
from labs.lab1_fsdp_advanced.model import SIZES, Shape
from labs.lab1_fsdp_advanced.peak_memory import peak
from labs.lab1_fsdp_advanced.precision import Precision
from labs.lab1_fsdp_advanced.sharding import Strategy

SHAPE = Shape(width=512, layers=4, heads=8, context=128, vocabulary=1024, kv_heads=4)
CASES = {
    **{
        f"{strategy} x{micro_batches}": Case(
            SHAPE, strategy, 8, 4, Precision.BF16, micro_batches=micro_batches
        )
        for strategy in Strategy
        for micro_batches in (1, 2)
    },
    **{
        f"{mode} {precision}": Case(
            SHAPE, Strategy.FULL_SHARD, 8, 16, precision, mode, device=device
        )
        for mode, precision, device in (
            ("none", Precision.FP32, "cpu"),
            ("selective", Precision.FP32, "cpu"),
            ("full", Precision.FP32, "cpu"),
            ("full", Precision.BF16, "cuda"),
        )
    },
    "two nodes": Case(SHAPE, Strategy.HYBRID_SHARD, 16, 4, Precision.BF16, local_world=8),
}


def formula(case):
    return peak(**{name: getattr(case, name) for name in case.__dataclass_fields__}).held


@pytest.fixture(scope="module")
def tracked():
    return dict(zip(CASES, predict_all(list(CASES.values())), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_tracker_and_the_formula_agree(tracked, name):
    assert formula(CASES[name]).total == pytest.approx(tracked[name].held.total, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", list(Strategy))
def test_state_is_divided_by_the_ranks_that_share(tracked, strategy):
    sharing = {"NO_SHARD": 1, "HYBRID_SHARD": 4}.get(strategy, 8)
    held = tracked[f"{strategy} x1"].held
    assert held.parameters == pytest.approx(4 * SHAPE.parameters / sharing, rel=0.01)
    assert held.optimizer == pytest.approx(8 * SHAPE.parameters / sharing, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", list(Strategy))
def test_accumulating_without_exchange_keeps_whole_gradients(tracked, strategy):
    grown = tracked[f"{strategy} x2"].held.total - tracked[f"{strategy} x1"].held.total
    assert grown > 1.5 * SHAPE.parameters, "bytes: most of 4 a parameter, at a peak that moves"


@pytest.mark.slow
def test_the_parts_are_the_total(tracked):
    for prediction in tracked.values():
        assert sum(prediction.parts.values()) == prediction.held.total


def test_parts_of_the_tracker_become_fields():
    parts = {"Sharded Param": 1, "Sharded Grad": 2, "Unsharded Grad": 4, "OptState": 8}
    parts |= {"All Gather": 16, "Reduce Scatter": 32, "Activation": 64, "Temp": 128, "Inputs": 256}
    assert held_from(parts) == Held(1, 6, 8, 48, 448)


@pytest.mark.slow
def test_eight_gpus_with_a_model_of_1_3_billion_are_predicted_here():
    found = predict(
        SIZES["1.3B"], Strategy.FULL_SHARD, world=8, micro_batch=4, precision=Precision.BF16
    )
    case = Case(SIZES["1.3B"], Strategy.FULL_SHARD, 8, 4, Precision.BF16)
    assert formula(case).total == pytest.approx(found.held.total, rel=0.10)


@pytest.mark.slow
def test_a_case_that_cannot_be_is_one_error():
    uneven = Case(SHAPE, Strategy.HYBRID_SHARD, 12, 1, Precision.BF16, local_world=8)
    with pytest.raises(RunError, match="world = 12 must be a multiple"):
        predict_all([uneven])


def test_a_case_survives_its_process():
    import json

    for case in CASES.values():
        assert Case.from_json(json.loads(json.dumps(asdict(case)))) == case


def test_the_figure_has_a_bar_for_each_part_and_each_way():
    held = Held(2**30, 2**30, 2**31, 0, 2**30)
    rows = [Compared("FULL_SHARD", held, replace(held, gradients=0), 5 * 2**30)]
    axes = figure([*rows, Compared("NO_SHARD", held)]).axes[0]
    assert [each.get_text() for each in axes.get_xticklabels()] == ["FULL_SHARD", "NO_SHARD"]
    assert max(bar.get_y() + bar.get_height() for bar in axes.patches) == pytest.approx(5)
    drawn = {text.get_text() for text in axes.get_legend().get_texts()}
    assert drawn == {*asdict(held), "measured"}
