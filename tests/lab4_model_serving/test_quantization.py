"""INT8 by hand, symmetric and affine, and the whole model by ONNX Runtime."""

import logging
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import InputError, RunError
from labs.lab4_model_serving import quantization
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
    import onnx
    from onnx import TensorProto, helper, numpy_helper

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
    import onnx
    from onnx import numpy_helper

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
    import onnx
    from onnx import TensorProto, helper

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


RANGES = st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)).map(sorted)


@pytest.mark.exercise("4.6")
@settings(derandomize=True, deadline=None, max_examples=60)
@given(limits=RANGES)
@example(limits=[2.0, 6.0])
@example(limits=[-6.0, -2.0])
@example(limits=[-0.1, 1.0])
def test_zero_is_stored_without_error(limits):
    """0.0 has a code of its own: an integer zero point in [0, 255], whatever the range.

    Padding and ReLU make many zeros. If each came back as 0.003, their sum would be a bias that
    nobody trained.
    """
    scale, zero_point = quantization.affine_parameters(*limits)
    assert zero_point == int(zero_point), f"range {limits}: zero point {zero_point} is no integer"
    assert 0 <= zero_point <= 255, f"range {limits}: zero point {zero_point} is no uint8"
    assert scale > 0, f"range {limits}: scale {scale}"
    code = round(0.0 / scale) + zero_point
    back = scale * (min(max(code, 0), 255) - zero_point)
    assert back == 0.0, f"range {limits}: 0.0 came back as {back}"


@pytest.mark.exercise("4.6")
@settings(derandomize=True, deadline=None, max_examples=60)
@given(limits=RANGES, share=st.floats(0, 1))
@example(limits=[2.0, 6.0], share=1.0)
@example(limits=[2.0, 6.0], share=0.0)
@example(limits=[-6.0, -2.0], share=0.0)
@example(limits=[-1.0, 1.0], share=1.0)
@example(limits=[-1.0, 1.0], share=0.0)
def test_what_calibration_saw_comes_back_within_a_step(limits, share):
    """Every value of the range comes back within one step, its two ends included.

    Half a step is rounding; the rest is that the zero point was rounded as well. A range that was
    not widened to zero loses the far end by much more: it saturates.
    """
    low, high = limits
    value = low + share * (high - low)
    scale, zero_point = quantization.affine_parameters(low, high)
    code = min(max(round(value / scale) + zero_point, 0), 255)
    back = scale * (code - zero_point)
    step = max((max(high, 0) - min(low, 0)) / 255, 1e-30)
    assert abs(back - value) <= 1.01 * step, (
        f"range {limits}: {value:.6g} came back as {back:.6g}, {abs(back - value) / step:.2f} steps"
    )


@pytest.mark.exercise("4.6")
@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (-1.0, 1.0, 2 / 255, 128),  # -low / scale is 127.5, and halves go to the even number
        (0.0, 2.55, 0.01, 0),
        (-2.55, 0.0, 0.01, 255),
        (1.0, 5.1, 0.02, 0),
        (-5.1, -1.0, 0.02, 255),
        (-0.51, 4.59, 0.02, 26),
    ],
)
def test_scale_and_zero_point_of_known_ranges(low, high, scale, zero_point):
    """255 steps from end to end, and the code of zero where zero lies.

    A range above zero is widened down to it: code 0. One below zero is widened up to it: code 255.
    """
    found = quantization.affine_parameters(low, high)
    assert found[0] == pytest.approx(scale, rel=1e-6), f"[{low}, {high}]: scale {found[0]}"
    assert found[1] == zero_point, f"[{low}, {high}]: zero point {found[1]}, not {zero_point}"


@pytest.mark.exercise("4.6")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_tensor_of_zeros_has_scale_one():
    """Calibration saw only zeros (a head that is switched off): scale 1, and nothing divides by 0.

    Zero has the zero point as its code then as well.
    """
    try:
        scale, zero_point = quantization.affine_parameters(0.0, 0.0)
    except ZeroDivisionError:
        scale, zero_point = math.nan, 0
    assert (scale, zero_point) == (1.0, 0), f"[0, 0]: scale {scale}, zero point {zero_point}"


@settings(derandomize=True, deadline=None, max_examples=30)
@given(limits=RANGES, seed=st.integers(0, 99))
def test_the_codes_are_those_of_onnx_runtimes_quantize_linear(limits, seed):
    """Rounding and saturation, value for value, from inside and outside the range."""
    scale, zero_point = quantization.affine_parameters(*limits)
    width = max(abs(limits[0]), abs(limits[1]), 1e-3)
    values = np.random.default_rng(seed).uniform(-2 * width, 2 * width, 200).astype(np.float32)
    theirs, back = quantize_linear(values, scale, zero_point)
    ours = quantization.quantize_affine(values, scale, zero_point)
    assert ours.tolist() == theirs.tolist()
    assert quantization.dequantize_affine(ours, scale, zero_point) == pytest.approx(
        back, rel=1e-6, abs=1e-30
    )


def quantize_linear(values: np.ndarray, scale: float, zero_point: int):
    """Codes and values by a graph of QuantizeLinear and DequantizeLinear."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    outputs = [("q", TensorProto.UINT8), ("y", TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes,
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in outputs],
        [
            numpy_helper.from_array(np.float32(scale), "s"),
            numpy_helper.from_array(np.uint8(zero_point), "z"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": values})


@settings(derandomize=True, deadline=None, max_examples=30)
@given(limits=RANGES)
def test_the_parameters_are_those_of_onnx_runtimes_calibration(limits):
    """The formula that its quantizer applies to a calibrated range, to the rounding of a half."""
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    low, high = (np.array(each, np.float32) for each in limits)
    their_zero, their_scale = compute_scale_zp(low, high, np.array(0), np.array(255))
    scale, zero_point = quantization.affine_parameters(float(low), float(high))
    assert scale == pytest.approx(float(their_scale), rel=1e-5)
    assert abs(zero_point - int(their_zero)) <= 1


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [(1.0, 0.0, "must be <= high"), (math.nan, 1.0, "finite"), (0.0, math.inf, "finite")],
)
def test_a_range_that_is_none_is_refused(low, high, message):
    with pytest.raises(InputError, match=message):
        quantization.affine_parameters(low, high)


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        ("fpu avx2 avx512f avx512_vnni amx_int8 amx_tile", "amx_int8"),
        ("fpu avx2 avx512f avx512_vnni", "avx512_vnni"),
        ("fpu avx2 avx_vnni", "avx_vnni"),
        ("fpu avx2 avx512f", "none"),
    ],
)
def test_the_best_integer_instruction_is_read_from_the_cpus_flags(flags, best, tmp_path):
    """Only a CPU with none of them needs weights of 7 bits."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert quantization.integer_instructions(cpuinfo) == best
    assert quantization.integer_instructions(tmp_path / "absent") == "none"


def test_a_reduced_range_leaves_weights_seven_bits(tmp_path):
    """2 x 255 x 64 fits in 16 bits, 2 x 255 x 127 does not."""
    import onnx
    from onnx import numpy_helper

    fp32 = linear_model(tmp_path / "m.onnx", gaussian(16, 64))
    largest = {}
    for reduce_range in (False, True):
        path = quantize_int8(fp32, tmp_path / "q.onnx", reduce_range=reduce_range)
        tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        codes = next(each for name, each in tensors.items() if name.endswith("_quantized"))
        largest[reduce_range] = int(np.abs(codes.astype(int)).max())
    assert largest == {False: 127, True: 64}


def test_the_tools_leave_logging_as_it_was(tmp_path, capfd):
    """Importing the INT4 quantizer gives the root logger a handler; a server would log twice."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    with quantization.quiet():
        import onnxruntime.quantization.matmul_nbits_quantizer  # noqa: F401

        logging.warning("not shown")
        print("not shown")
    assert (root.level, list(root.handlers)) == before
    assert "not shown" not in "".join(capfd.readouterr())
