"""The table of batch size by precision: what is built, and how time is taken."""

import numpy as np
import pytest

from common.errors import InputError
from labs.lab4_model_serving.export import parity, run, session
from labs.lab4_model_serving.int4 import accuracy_levels
from labs.lab4_model_serving.precision_crossover import (
    PRECISIONS,
    Crossover,
    build_precisions,
    linear_layer,
    measure_crossover,
    row_batcher,
    text_batcher,
)


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    """A layer of 64 x 128 in every precision, and rows for it."""
    folder = tmp_path_factory.mktemp("layer")
    rng = np.random.default_rng(1)
    fp32 = linear_layer(folder / "fp32.onnx", inputs=64, outputs=128)
    calibration = [{"x": rng.normal(size=(64, 64)).astype(np.float32)}]
    rows = rng.normal(size=(16, 64)).astype(np.float32)
    return build_precisions(fp32, folder, calibration), rows


def test_every_precision_computes_the_layer_with_the_error_of_its_bits(layer):
    """1 % for eight bits, 10 % for four: a precision that was not applied would have none."""
    models, rows = layer
    assert tuple(models) == PRECISIONS
    expected = run(session(models["fp32"]), {"x": rows})["logits"]
    errors = {
        name: float(
            np.linalg.norm(run(session(path), {"x": rows})["logits"] - expected)
            / np.linalg.norm(expected)
        )
        for name, path in models.items()
    }
    assert errors["fp32"] == 0
    assert all(0.002 < errors[name] < 0.03 for name in ("int8_dynamic", "int8_static")), errors
    assert all(0.03 < errors[name] < 0.15 for name in ("int4", "int4_level4")), errors
    assert set(accuracy_levels(models["int4"]).values()) == {0}
    assert set(accuracy_levels(models["int4_level4"]).values()) == {4}


def test_static_int8_answers_the_same_in_any_company_and_dynamic_does_not(layer):
    """One loud row in the batch makes dynamic steps coarse for everybody."""
    models, rows = layer
    loud = np.concatenate([rows, 100 * rows[:1]])
    change = {}
    for name in ("int8_static", "int8_dynamic"):
        opened = session(models[name])
        alone = run(opened, {"x": rows})
        together = run(opened, {"x": loud})
        change[name] = parity(alone, {"logits": together["logits"][: len(rows)]}).max_abs_error
    assert change["int8_static"] < 1e-5
    assert change["int8_dynamic"] > 0.05


def test_a_round_passes_once_over_all_items_with_every_model_at_every_batch_size(layer):
    """Microseconds an item on a clock that ticks once a reading: 1 s a pass of 16 items."""
    models, rows = layer
    ticks = iter(range(1000))
    found = measure_crossover(
        {name: models[name] for name in ("fp32", "int8_dynamic")},
        row_batcher(rows),
        batches=(1, 4, 16),
        rounds=3,
        clock=lambda: float(next(ticks)),
    )
    assert next(ticks) == 2 * 2 * 3 * 3, "a clock reading before and after each pass"
    assert len(found.us) == 6
    assert all(times.tolist() == [1e6 / 16] * 3 for times in found.us.values())
    assert found.cell("fp32", 4).median_us == pytest.approx(62_500)
    assert [(each.precision, each.batch) for each in found.cells()][:2] == [
        ("fp32", 1),
        ("fp32", 4),
    ]


def table(**medians: list[float]) -> Crossover:
    """Times at batches 1, 8 and 64 with a spread of a tenth, the same disturbance for all."""
    disturbance = np.array([1.0, 0.9, 1.1, 3.0])
    batches = (1, 8, 64)
    us = {
        (name, batch): value * disturbance
        for name, values in medians.items()
        for batch, value in zip(batches, values, strict=True)
    }
    return Crossover(us, tuple(medians), batches, 1)


def test_speedups_are_ratios_within_a_round():
    """A disturbance that hits a whole round cancels, though every time of it is three times off."""
    found = table(fp32=[10, 8, 6], int8=[5, 4, 3], int4=[4, 8.8, 12])
    assert found.speedup("int8", 8) == pytest.approx((2, 2, 2))
    assert found.speedup("int4", 64) == pytest.approx((0.5, 0.5, 0.5))
    assert found.cell("int8", 1).low_us < found.cell("int8", 1).median_us
    assert (found.fastest(1), found.fastest(8)) == ("int4", "int8")


def test_the_crossover_is_the_first_batch_size_that_loses():
    found = table(fp32=[10, 8, 6], int8=[5, 4, 3], int4=[4, 8.8, 12])
    assert found.loses_from("int8") is None
    assert found.loses_from("int4") == 8
    assert found.loses_from("fp32") is None


def test_texts_of_a_pass_are_of_like_length_and_the_same_at_every_batch_size():
    ids = [[101, *range(n), 102] for n in (1, 2, 30, 9, 10, 11, 10, 9)]
    batcher = text_batcher(ids, items=4)
    for batch in (1, 2, 4):
        inputs = batcher(batch)
        assert len(inputs) == 4 // batch
        lengths = sorted(int(n) for each in inputs for n in each["attention_mask"].sum(axis=1))
        assert lengths == [11, 11, 12, 12]
    with pytest.raises(InputError, match="items = 64"):
        text_batcher(ids)


def test_what_was_not_measured_and_what_cannot_be_is_named(layer):
    models, rows = layer
    with pytest.raises(InputError, match="rounds = 2"):
        measure_crossover(models, row_batcher(rows), rounds=2)
    with pytest.raises(InputError, match="batches"):
        measure_crossover(models, row_batcher(rows), batches=())
    with pytest.raises(InputError, match="'int2' at batch 8 was not measured"):
        table(fp32=[1, 1, 1]).cell("int2", 8)
