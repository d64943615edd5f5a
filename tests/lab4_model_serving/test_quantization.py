"""Symmetric INT8 by hand, and the whole model by ONNX Runtime."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from common.errors import InputError, RunError
from labs.lab4_model_serving.quantization import (
    dequantize,
    operator_counts,
    quantize_int8,
    quantize_symmetric,
    relative_error,
    size_report,
)


def gaussian(out: int, inputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(out, inputs)).astype(np.float32)


def linear_model(path, weights: np.ndarray):
    """An ONNX file of x [batch, in] -> x @ weights.T."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weights.shape[0]])],
        [numpy_helper.from_array(np.ascontiguousarray(weights.T), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.mark.exercise("4.2")
@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    out=st.integers(1, 8),
    inputs=st.integers(1, 40),
    magnitude=st.floats(1e-4, 1e4),
    seed=st.integers(0, 1000),
)
def test_no_weight_moves_by_more_than_half_a_step(out, inputs, magnitude, seed):
    """|W - s Q| <= s / 2: that is what rounding to the nearest means.

    Truncating doubles the error; a scale of max / 128 makes 128 of the largest weight, which an
    int8 stores as -128: the largest weight changes its sign.
    """
    weights = gaussian(out, inputs, seed) * np.float32(magnitude)
    q, scales = quantize_symmetric(weights)
    error = np.abs(weights - dequantize(q, scales))
    allowed = scales[:, None] * 0.5001
    worst = np.unravel_index((error - allowed).argmax(), error.shape)
    assert np.all(error <= allowed), (
        f"weight {weights[worst]:.5g} became {dequantize(q, scales)[worst]:.5g}; "
        f"half a step is {scales[worst[0]] / 2:.3g}"
    )


@pytest.mark.exercise("4.2")
def test_every_channel_keeps_its_own_precision():
    """Rows whose magnitudes differ by 1,000 keep a relative error of about 1 % each.

    With one scale for the whole matrix, the small channels round to zero.
    """
    weights = gaussian(3, 256) * np.array([[1.0], [0.03], [0.001]], dtype=np.float32)
    q, scales = quantize_symmetric(weights)
    assert scales.shape == (3,), f"scales have shape {scales.shape}, expected one an output: (3,)"
    restored = dequantize(q, scales)
    errors = [relative_error(weights[row], restored[row]) for row in range(3)]
    assert max(errors) < 0.02, f"relative errors of the rows: {np.round(errors, 4).tolist()}"


@pytest.mark.exercise("4.2")
def test_the_range_is_symmetric_and_zero_stays_zero():
    """int8 in [-127, 127], the largest magnitude at the end of it, and 0 is exactly 0.

    Padding and ReLU make exact zeros: if zero moved, every padded position would add a bias.
    """
    weights = np.array([[-2.0, 0.0, 1.0], [0.5, 0.25, 0.0]], dtype=np.float32)
    q, scales = quantize_symmetric(weights)
    assert q.dtype == np.int8, f"q is {q.dtype}"
    assert np.abs(q.astype(int)).max(axis=1).tolist() == [127, 127], f"q = {q.tolist()}"
    assert q[weights == 0].tolist() == [0, 0], f"zeros became {q[weights == 0].tolist()}"
    assert scales == pytest.approx([2 / 127, 0.5 / 127], rel=1e-5), f"scales {scales.tolist()}"


@pytest.mark.exercise("4.2")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_channel_of_zeros_has_scale_one():
    """A pruned channel must not divide by zero: one NaN makes every logit NaN."""
    weights = gaussian(2, 4)
    weights[0] = 0
    q, scales = quantize_symmetric(weights)
    assert np.isfinite(scales).all(), f"scales {scales.tolist()} of a matrix with a zero row"
    assert scales[0] == 1, f"the zero row has scale {scales[0]}, expected 1"
    assert q[0].tolist() == [0, 0, 0, 0], f"the zero row became {q[0].tolist()}"


@pytest.mark.exercise("4.2")
def test_onnx_runtime_writes_the_same_integers(tmp_path):
    """The INT8 file of ONNX Runtime holds these very integers: you have written the mechanism."""
    weights = gaussian(16, 64) * np.linspace(0.1, 3, 16, dtype=np.float32)[:, None]
    q, scales = quantize_symmetric(weights)
    path = quantize_int8(linear_model(tmp_path / "m.onnx", weights), tmp_path / "q.onnx")
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    theirs = next(tensors[name] for name in tensors if name.endswith("_quantized")).T
    their_scales = next(tensors[name] for name in tensors if name.endswith("_scale"))
    assert scales == pytest.approx(their_scales, rel=1e-5), "scales differ from ONNX Runtime's"
    different = (q != theirs).mean()
    assert different < 0.01, f"{different:.1%} of the integers differ from ONNX Runtime's"


def test_an_int8_model_answers_nearly_the_same_at_a_quarter_of_the_size(tmp_path):
    from labs.lab4_model_serving.export import parity, run, session

    fp32 = linear_model(tmp_path / "m.onnx", gaussian(256, 1024))
    int8 = quantize_int8(fp32, tmp_path / "deep" / "q.onnx")
    report = size_report(fp32, int8)
    assert (report.integer_products, report.float_products) == (1, 0)
    assert 0.24 < report.ratio < 0.28
    x = {"x": gaussian(100, 1024, seed=1)}
    measured = parity(run(session(fp32), x), run(session(int8), x))
    assert measured.argmax_agreement is not None
    assert measured.argmax_agreement > 0.9
    assert measured.max_abs_error > 0, "nothing was quantized"


def test_a_model_without_matrix_product_is_refused_and_nothing_is_left(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "relu.onnx")
    with pytest.raises(RunError, match="no integer matrix product"):
        quantize_int8(tmp_path / "relu.onnx", tmp_path / "q.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["relu.onnx"]
    assert operator_counts(tmp_path / "relu.onnx") == {"Relu": 1}


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.onnx"):
        quantize_int8(tmp_path / "absent.onnx", tmp_path / "q.onnx")
