"""Sessions: the device that was asked for or an error, the graph that runs, bound buffers."""

import numpy as np
import onnxruntime as ort
import pytest

from common.errors import InputError
from labs.lab4_model_serving.ort_options import (
    LEVELS,
    PROVIDERS,
    BoundRunner,
    SessionSettings,
    choose_providers,
    open_session,
    optimized_graphs,
    session_options,
)

CPU = "CPUExecutionProvider"


def feed(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 1000, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_a_device_that_is_not_built_in_is_an_error_and_not_the_cpu():
    """ONNX Runtime itself warns and runs on the CPU: ten times slower, and nobody is told."""
    assert choose_providers("cpu", [CPU, "AzureExecutionProvider"]) == [CPU]
    for device in ("cuda", "tensorrt"):
        with pytest.raises(InputError, match=r"needs .* has only .*install onnxruntime-gpu"):
            choose_providers(device, [CPU])
    with pytest.raises(InputError, match="needs TensorrtExecutionProvider"):
        choose_providers("tensorrt", ["CUDAExecutionProvider", CPU])
    with pytest.raises(InputError, match="'cpu' or 'cuda' or 'tensorrt'"):
        choose_providers("tpu", [CPU])


@pytest.mark.parametrize("device", list(PROVIDERS))
def test_what_is_there_keeps_its_order_and_ends_with_the_cpu(device):
    """Nodes without a kernel on the accelerator have to run somewhere: by order, not by chance."""
    everything = [CPU, "CUDAExecutionProvider", "TensorrtExecutionProvider"]
    assert choose_providers(device, everything) == list(PROVIDERS[device])
    assert choose_providers(device, everything)[-1] == CPU


def test_a_provider_that_does_not_load_is_an_error(tiny_bundle, monkeypatch):
    """Built in is not loaded: without the driver ONNX Runtime goes on with the rest of the list."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    if (
        "CUDAExecutionProvider"
        in ort.InferenceSession(
            str(tiny_bundle.model), providers=["CUDAExecutionProvider", CPU]
        ).get_providers()
    ):
        pytest.skip("here it loads")
    with pytest.raises(InputError, match="did not load"):
        open_session(tiny_bundle.model, SessionSettings(device="cuda"))


def test_settings_reach_the_session(tiny_bundle):
    settings = SessionSettings(optimization="basic", intra_threads=2, memory_pattern=False)
    found = open_session(tiny_bundle.model, settings).get_session_options()
    assert found.graph_optimization_level == LEVELS["basic"]
    assert (found.intra_op_num_threads, found.enable_mem_pattern) == (2, False)
    assert found.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    parallel = session_options(SessionSettings(inter_threads=2))
    assert parallel.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not parallel.enable_mem_pattern, "the pattern needs one order of execution"


@pytest.mark.parametrize(
    "wrong", [{"optimization": "most"}, {"intra_threads": -1}, {"inter_threads": 0}]
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        SessionSettings(**wrong)


def test_every_level_answers_the_same(tiny_bundle):
    given = feed(3, 9)
    answers = [
        open_session(tiny_bundle.model, SessionSettings(optimization=level)).run(None, given)[0]
        for level in LEVELS
    ]
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-5)


def test_the_graph_of_each_level_is_counted(tiny_bundle):
    graphs = optimized_graphs(tiny_bundle.model)
    assert [each.level for each in graphs] == list(LEVELS)
    assert graphs[0].operators == dict.fromkeys(
        ("Gather", "Cast", "Unsqueeze", "Mul", "ReduceSum"), 1
    )
    assert graphs[0].nodes == 5


def test_a_bound_output_is_the_sessions_output_in_one_buffer(tiny_bundle):
    session = open_session(tiny_bundle.model)
    runner = BoundRunner(session, max_rows=8)
    views = []
    for batch, length in ((8, 5), (1, 1), (3, 20)):
        given = feed(batch, length, seed=batch)
        views.append(runner.run(given))
        np.testing.assert_array_equal(views[-1], session.run(None, given)[0])
    assert np.shares_memory(views[0], views[2]), "no new buffer"
    with pytest.raises(InputError, match="max_rows = 8"):
        runner.run(feed(9, 2))


def test_an_answer_of_a_bound_output_must_be_copied_to_be_kept(tiny_bundle):
    """The next run writes over it. That is the price of the buffer, and its trap."""
    runner = BoundRunner(open_session(tiny_bundle.model), max_rows=2)
    kept = runner.run(feed(2, 4, seed=1))
    before = kept.copy()
    runner.run(feed(2, 4, seed=2))
    assert not np.array_equal(kept, before)
