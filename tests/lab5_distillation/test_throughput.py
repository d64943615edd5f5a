"""Speed in turns: what is counted, and that a slow machine leaves ratios alone."""

import numpy as np
import pytest

from common.errors import InputError
from labs.lab5_distillation import throughput
from labs.lab5_distillation.throughput import measure, throughput_ratio


class Machine:
    """A clock that models move on: a call takes its cost times how slow the machine is now."""

    def __init__(self):
        self.now, self.slowness, self.calls = 0.0, 1.0, []

    def clock(self):
        return self.now

    def model(self, name, cost):
        def run(feed):
            self.calls.append(name)
            self.now += cost * throughput.n_texts(feed) * self.slowness

        return run


def feeds(*sizes):
    return [{"input_ids": np.ones((size, 3), np.int64)} for size in sizes]


def test_texts_a_second_and_latency_of_a_call():
    """10 ms a text in batches of 4 and 2: 100 texts a second, calls of 40 and 20 ms."""
    machine = Machine()
    found = measure(
        {"a": machine.model("a", 0.01)}, feeds(4, 2), repeats=3, seconds=0.1, clock=machine.clock
    )["a"]
    assert found.per_repeat == pytest.approx([100] * 3)
    assert found.texts_per_s == pytest.approx(100)
    assert found.texts_per_call == 3
    assert found.latency.max_ms == pytest.approx(40)
    assert found.latency.mean_ms == pytest.approx(30)
    assert found.latency.n == 3 * 2 * 2, "two passes of two batches reach 0.1 s, in three turns"


def test_each_model_answers_every_batch_before_it_is_timed():
    """The first call of a shape allocates and plans; that is no steady state."""
    machine = Machine()
    slow_start = {"left": 2}

    def run(feed):
        machine.now += 5.0 if slow_start["left"] > 0 else 0.01
        slow_start["left"] -= 1

    found = measure({"a": run}, feeds(1, 1), repeats=2, seconds=0.0, clock=machine.clock)["a"]
    assert found.latency.max_ms == pytest.approx(10)


def test_models_take_turns_and_the_order_rotates():
    """None is always first: after a pause, or while the machine is still cold."""
    machine = Machine()
    models = {name: machine.model(name, 0.01) for name in "abc"}
    measure(models, feeds(1), repeats=3, seconds=0.0, clock=machine.clock)
    assert "".join(machine.calls) == "abc" + "abc" + "bca" + "cab"


def test_a_machine_that_slows_down_leaves_the_ratio_alone():
    """Turn by turn both get slower; throughputs fall to a quarter and the ratio stays 5."""
    machine = Machine()

    def slowing(name, cost):
        inner = machine.model(name, cost)

        def run(feed):
            machine.slowness = 1 + len(machine.calls) // 6
            inner(feed)

        return run

    models = {"student": slowing("student", 0.01), "teacher": slowing("teacher", 0.05)}
    found = measure(models, feeds(1, 1, 1), repeats=4, seconds=0.0, clock=machine.clock)
    low, high = found["teacher"].spread
    assert high / low > 2
    ratio = throughput_ratio(found["student"], found["teacher"])
    assert ratio.per_repeat == pytest.approx([5] * 4)
    assert ratio.ci95 == pytest.approx((5, 5))


def test_a_ratio_has_the_t_interval_of_its_logarithms():
    """Two turns of 4 and 9: geometric mean 6, and an interval as wide as two turns allow."""
    summary = measure({"a": lambda feed: None}, feeds(1), repeats=2, seconds=0.0)["a"].latency
    fast = throughput.Throughput((40.0, 90.0), summary, 1)
    slow = throughput.Throughput((10.0, 10.0), summary, 1)
    ratio = throughput_ratio(fast, slow)
    assert ratio.value == pytest.approx(6)
    half = 12.7062 * np.std(np.log([4, 9]), ddof=1) / 2**0.5
    assert np.log(ratio.ci95) == pytest.approx([np.log(6) - half, np.log(6) + half], rel=1e-4)


def test_turns_of_two_measurements_are_not_paired():
    """Different numbers of turns cannot be of one call."""
    summary = measure({"a": lambda feed: None}, feeds(1), repeats=2, seconds=0.0)["a"].latency
    with pytest.raises(InputError, match="one call"):
        throughput_ratio(
            throughput.Throughput((1.0, 1.0), summary, 1),
            throughput.Throughput((1.0, 1.0, 1.0), summary, 1),
        )


@pytest.mark.parametrize(
    ("models", "batches", "repeats", "word"),
    [
        ({}, feeds(1), 2, "models"),
        ({"a": len}, [], 2, "feeds"),
        ({"a": len}, feeds(1), 1, "no spread"),
    ],
)
def test_nothing_to_measure_is_refused(models, batches, repeats, word):
    """One clear error instead of a division by zero."""
    with pytest.raises(InputError, match=word):
        measure(models, batches, repeats=repeats)


def test_batches_hold_every_text_once_with_little_padding(tiny_texts):
    """By length: less padding than in the order given, which pads to the longest of any eight."""
    by_length = throughput.batched(tiny_texts, 8)
    rows = [np.arange(at, at + 8) for at in range(0, 80, 8)]
    as_given = [{"attention_mask": tiny_texts.batch(each).attention_mask.numpy()} for each in rows]
    assert sum(throughput.n_texts(feed) for feed in by_length) == 80
    total = sum(int(feed["attention_mask"].sum()) for feed in by_length)
    assert total == tiny_texts.lengths.sum()
    assert throughput.padding(by_length) < 0.5 * throughput.padding(as_given)


def test_single_texts_have_their_real_length(tiny_texts):
    """No padding at all, and a seed that chooses which."""
    alone = throughput.single(tiny_texts, 20, seed=1)
    assert len(alone) == 20
    assert {throughput.n_texts(feed) for feed in alone} == {1}
    assert throughput.padding(alone) == 0
    lengths = [feed["input_ids"].shape[1] for feed in alone]
    assert len(set(lengths)) > 3


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A table look-up and a matrix as an ONNX graph: what is run is the runner, not the model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = np.random.default_rng(0).standard_normal((120, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["each"]),
            helper.make_node("ReduceSum", ["each", "axes"], ["logits"], keepdims=0),
        ],
        "sum of rows",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), file)
    return file, table


def test_an_onnx_file_is_run_and_answers_in_the_order_of_the_texts(exported, tiny_texts):
    """Batches are by length, the logits by row; the mask is left out, since the graph has none."""
    file, table = exported
    run = throughput.onnx_runner(file)
    found = throughput.logits_of(run, tiny_texts, size=1)
    expected = np.stack([table[ids].sum(axis=0) for ids in tiny_texts.ids])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert throughput.size_mb(file) == pytest.approx(file.stat().st_size / 1e6)
    speeds = measure({"onnx": run}, throughput.single(tiny_texts, 5), repeats=2, seconds=0.0)
    assert speeds["onnx"].texts_per_s > 0


def test_external_data_counts_as_size(tmp_path):
    """The file of a large graph holds no weights: they lie beside it."""
    (tmp_path / "m.onnx").write_bytes(b"x" * 1000)
    (tmp_path / "m.onnx.data").write_bytes(b"x" * 9000)
    assert throughput.size_mb(tmp_path / "m.onnx") == pytest.approx(0.01)


@pytest.mark.parametrize("call", [throughput.size_mb, throughput.onnx_runner])
def test_a_file_that_is_not_there_is_named(call, tmp_path):
    """With what to do about it."""
    with pytest.raises(InputError, match=r"absent\.onnx.*export"):
        call(tmp_path / "absent.onnx")


def test_a_classifier_in_torch_is_measured_by_the_same_function(tiny_teacher, tiny_texts):
    """Its logits are those of the recipe's, and the number of threads is put back."""
    import torch

    from labs.lab5_distillation.recipe import logits

    before = torch.get_num_threads()
    with throughput.torch_threads(1):
        assert torch.get_num_threads() == 1
        found = throughput.logits_of(throughput.torch_runner(tiny_teacher), tiny_texts)
    assert torch.get_num_threads() == before
    np.testing.assert_allclose(found, logits(tiny_teacher, tiny_texts).numpy(), atol=1e-5)
