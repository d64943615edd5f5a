"""Static INT8 of a small encoder: calibration, what is quantized, and which layers suffer."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from common.errors import InputError, RunError
from labs.lab4_model_serving import layer_sensitivity, quantization, static_quantization
from labs.lab4_model_serving.layer_sensitivity import layer_names, mixed_precision
from labs.lab4_model_serving.paired_accuracy import logits
from labs.lab4_model_serving.static_quantization import (
    METHODS,
    calibrate,
    calibration_batches,
    compare_calibrations,
    quantize_calibrated,
    quantize_static_int8,
)
from tests.lab4_model_serving.tiny_encoder import VOCABULARY, tiny_encoder


def token_ids(n: int, seed: int) -> list[list[int]]:
    """Rows of 3 to 20 ids that begin with 101 and end with 102, as a tokenizer's do."""
    rng = np.random.default_rng(seed)
    return [[101, *rng.integers(110, VOCABULARY, rng.integers(1, 19)), 102] for _ in range(n)]


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    """An encoder of one layer with random weights."""
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "fp32.onnx")


@pytest.fixture(scope="module")
def calibration(fp32, tmp_path_factory):
    batches = calibration_batches(token_ids(64, seed=0))
    return calibrate(fp32, batches, tmp_path_factory.mktemp("calibration"))


def relative_error(fp32, path, ids) -> float:
    reference = logits(fp32, ids)
    return float(np.linalg.norm(logits(path, ids) - reference) / np.linalg.norm(reference))


def constants(path) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def test_every_product_becomes_an_integer_product_and_decides_as_before(
    fp32, calibration, tmp_path
):
    path = quantize_calibrated(calibration, tmp_path / "deep" / "int8.onnx")
    products = static_quantization.quantized_products(onnx.load(path))
    assert sorted([*products, "node_embedded"]) == sorted(layer_names(fp32))
    assert len(products) == 9, "4 of attention's maps, 2 of attention, 2 of the network, the head"
    assert 0 < relative_error(fp32, path, token_ids(64, seed=1)) < 0.1
    assert path.stat().st_size < 0.5 * fp32.stat().st_size


def test_onnx_runtime_fuses_the_pairs_into_integer_kernels(calibration, tmp_path):
    """QDQ is a description. What counts is that no MatMul over floats is left when it runs."""
    import onnxruntime as ort

    path = quantize_calibrated(calibration, tmp_path / "int8.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    after = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    integer = sum(
        n for name, n in after.items() if name in ("QLinearMatMul", "MatMulIntegerToFloat", "QGemm")
    )
    assert integer == 9, after
    assert after["MatMul"] + after["Gemm"] == 0, after


def test_stored_scales_are_those_of_the_calibrated_range(calibration, tmp_path):
    """The mechanism of exercise 4.6, found again in the file, for every calibrated activation."""
    found = constants(quantize_calibrated(calibration, tmp_path / "int8.onnx"))
    compared = 0
    for name, limits in calibration.ranges.items():
        if f"{name}_scale" in found and found[f"{name}_zero_point"].dtype == np.uint8:
            scale, zero_point = quantization.affine_parameters(*limits)
            assert float(found[f"{name}_scale"]) == pytest.approx(scale, rel=1e-5), name
            assert abs(int(found[f"{name}_zero_point"]) - zero_point) <= 1, name
            compared += 1
    assert compared >= 9


def test_a_scale_a_channel_is_more_exact_than_one_a_matrix(fp32, tmp_path):
    """Rows of the first map differ in magnitude by 100; one scale rounds the small ones away."""
    model = onnx.load(fp32)
    name = next(node.input[1] for node in model.graph.node if node.op_type == "MatMul")
    for each in model.graph.initializer:
        if each.name == name:
            weights = numpy_helper.to_array(each) * np.geomspace(0.02, 2, 64, dtype=np.float32)
            each.CopyFrom(numpy_helper.from_array(weights, name))
    onnx.save(model, tmp_path / "uneven.onnx")
    seen = calibrate(
        tmp_path / "uneven.onnx", calibration_batches(token_ids(32, seed=0)), tmp_path / "seen"
    )
    errors, scales = {}, {}
    for per_channel in (True, False):
        path = quantize_calibrated(seen, tmp_path / "q.onnx", per_channel=per_channel)
        found = constants(path)
        weight, scale = found[f"{name}_quantized"], found[f"{name}_scale"]
        scales[per_channel] = scale.size
        errors[per_channel] = quantization.relative_error(weights[:, :16], (weight * scale)[:, :16])
    assert scales == {True: 64, False: 1}
    assert errors[True] < 0.02
    assert errors[False] > 0.1


def test_methods_that_give_up_outliers_choose_narrower_ranges(fp32, tmp_path):
    """minmax keeps what was seen once; entropy and percentile may not go beyond it."""
    batches = calibration_batches(token_ids(48, seed=0))
    seen = {
        method: calibrate(fp32, batches, tmp_path / method, method=method, percentile=99.0)
        for method in METHODS
    }
    width = {
        method: np.array([high - low for low, high in found.ranges.values()])
        for method, found in seen.items()
    }
    assert set(seen["minmax"].ranges) == set(seen["entropy"].ranges)
    for method in ("entropy", "percentile"):
        order = list(seen["minmax"].ranges)
        narrow = np.array([np.subtract(*reversed(seen[method].ranges[name])) for name in order])
        assert np.all(narrow <= width["minmax"] * 1.02)
        assert narrow.sum() < width["minmax"].sum(), method


def test_the_mask_of_attention_must_not_be_quantized(fp32, tmp_path):
    """All operators, ONNX Runtime's default: -10,000 for padding makes steps of 39 for scores.

    Scores of a few units are then all equal, and attention looks at every token alike.
    """
    batches = calibration_batches(token_ids(32, seed=0))
    texts = token_ids(64, seed=1)
    errors = {}
    for name, operators in (
        ("default", static_quantization.every_operator()),
        ("ours", static_quantization.OPERATORS),
    ):
        path = quantize_static_int8(fp32, tmp_path / f"{name}.onnx", batches, operators=operators)
        errors[name] = relative_error(fp32, path, texts)
    assert errors["default"] > 3 * errors["ours"], errors
    largest = max(
        each.item()
        for name, each in constants(tmp_path / "default.onnx").items()
        if name.endswith("_scale") and each.size == 1
    )
    assert largest == pytest.approx(10_000 / 255, rel=0.05)


def test_logits_beyond_the_calibrated_range_become_equal_unless_outputs_stay_float(
    fp32, calibration, tmp_path
):
    """Calibration that saw no confident answer: half of the true range of the logits.

    Rounded outputs then saturate, several logits share the highest code, and the first one wins.
    Products whose outputs stay float32 have no such range.
    """
    low, high = calibration.ranges["logits"]
    narrow = replace(calibration, ranges={**calibration.ranges, "logits": (low / 2, high / 2)})
    texts = token_ids(64, seed=1)
    reference = logits(fp32, texts)
    ties, answers = {}, {}
    for name, seen, rounded in (
        ("rounded", narrow, True),
        ("float", narrow, False),
        ("float, full range", calibration, False),
    ):
        path = quantize_calibrated(seen, tmp_path / "q.onnx", round_outputs=rounded)
        answers[name] = logits(path, texts)
        top = np.sort(answers[name], axis=1)
        ties[name] = int((top[:, -1] == top[:, -2]).sum())
    assert ties["rounded"] > 0
    assert ties["float"] == 0
    assert np.abs(answers["rounded"]).max() < 0.8 * np.abs(reference).max()
    assert np.array_equal(answers["float"], answers["float, full range"])


def test_calibrations_are_compared_by_data_method_and_granularity(fp32):
    texts = token_ids(20, seed=1)
    labels = logits(fp32, texts).argmax(axis=1)
    data = {"real": calibration_batches(token_ids(16, seed=0))}
    rows = compare_calibrations(fp32, data, texts, labels, methods=("minmax",))
    assert [(row.data, row.method, row.per_channel) for row in rows] == [
        ("real", "minmax", True),
        ("real", "minmax", False),
    ]
    assert all(row.against_fp32.reference == 1.0 for row in rows)
    assert all(row.against_fp32.agreement > 0.8 for row in rows)


def test_layers_have_the_names_that_the_model_gave_them(fp32):
    """node_MatMul_36 means nothing to who has to decide; the bias behind it knows."""
    assert list(layer_names(fp32).values()) == [
        *("words", "query", "key", "value"),
        *("product 1", "product 2"),
        *("output", "inner", "outer", "head"),
    ]


def test_errors_of_layers_add_up_like_independent_noise(calibration):
    """sqrt(sum of squares) of the products alone foretells the whole within a half.

    So leaving the most sensitive ones in float32 helps, each a little less than the one before.
    """
    inputs = calibration_batches(token_ids(64, seed=1), 32)
    found = layer_sensitivity.layer_sensitivity(calibration, inputs)
    assert len(found) == 10, "nine products and the look-up"
    assert [each.relative_error for each in found] == sorted(
        (each.relative_error for each in found), reverse=True
    )
    whole, most = mixed_precision(calibration, found, inputs, (0, 5))
    assert 0.5 < whole.relative_error / whole.independent < 2
    assert most.relative_error < whole.relative_error
    assert most.keep_float == tuple(each.node for each in found[:5])


def test_layers_that_are_kept_stay_float32(fp32, calibration, tmp_path):
    head = next(node for node, layer in layer_names(fp32).items() if layer == "head")
    path = quantize_calibrated(calibration, tmp_path / "mixed.onnx", keep_float=[head])
    products = static_quantization.quantized_products(onnx.load(path))
    assert head not in products
    assert len(products) == 8


def test_what_cannot_be_calibrated_is_named_and_nothing_is_left(fp32, calibration, tmp_path):
    batches = calibration_batches(token_ids(2, seed=0))
    with pytest.raises(InputError, match="method = 'best'"):
        calibrate(fp32, batches, tmp_path, method="best")
    with pytest.raises(InputError, match="calibration batches = 0"):
        calibrate(fp32, [], tmp_path)
    with pytest.raises(InputError, match="calibration texts = 0"):
        calibration_batches([])
    with pytest.raises(InputError, match="node = 'absent'"):
        quantize_calibrated(calibration, tmp_path / "q.onnx", keep_float=["absent"])
    with pytest.raises(RunError, match="nothing was quantized"):
        quantize_calibrated(calibration, tmp_path / "q.onnx", keep_float=list(layer_names(fp32)))
    with pytest.raises(InputError, match=r"absent\.onnx"):
        calibrate(tmp_path / "absent.onnx", batches, tmp_path)
    assert [path for path in tmp_path.iterdir() if path.suffix] == []
