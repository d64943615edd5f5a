"""Blockwise INT4 by hand, held against what ONNX Runtime stores and computes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError, RunError
from labs.lab4_model_serving import int4


def gaussian(out: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(out, columns)).astype(np.float32)


def read(packed: np.ndarray, scales: np.ndarray, columns: int) -> np.ndarray:
    """The matrix of packed weights, byte by byte."""
    out, blocks, size = packed.shape
    values = np.zeros((out, blocks * 2 * size), np.float32)
    for row in range(out):
        for block in range(blocks):
            for j in range(size):
                byte = int(packed[row, block, j])
                at = 2 * (block * size + j)
                values[row, at] = ((byte & 15) - 8) * scales[row, block]
                values[row, at + 1] = ((byte >> 4) - 8) * scales[row, block]
    return values[:, :columns]


@pytest.mark.exercise("4.7")
def test_two_weights_share_a_byte_the_even_one_below():
    """-8 to 7 in steps of 1: codes 0 to 15, and byte j holds codes 2j (low half) and 2j + 1.

    With the halves the wrong way round every pair of neighbours is exchanged: all weights are
    there, the model answers nonsense, and no size or histogram shows it.
    """
    weights = np.arange(-8, 8, dtype=np.float32)[None]
    packed, scales = int4.quantize_blocks(weights, 16)
    expected = [(2 * j + 1) << 4 | 2 * j for j in range(8)]
    assert scales.tolist() == [[1.0]], f"scales {scales.tolist()}, expected [[1.0]]"
    assert packed.dtype == np.uint8, f"packed is {packed.dtype}"
    assert packed.tolist() == [[expected]], (
        f"bytes {[hex(byte) for byte in packed.ravel()]}, expected {[hex(b) for b in expected]}"
    )


@pytest.mark.exercise("4.7")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    out=st.integers(1, 4),
    columns=st.integers(1, 70),
    block_size=st.sampled_from([16, 32]),
    magnitude=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
def test_no_weight_moves_by_more_than_a_step_of_its_block(
    out, columns, block_size, magnitude, seed
):
    """Half a step, or one at the short end: +8 steps do not exist, so they become 7.

    ``columns`` need not be a multiple of the block size; what the last block is filled up with must
    not change what is in it.
    """
    weights = gaussian(out, columns, seed) * np.float32(magnitude)
    packed, scales = int4.quantize_blocks(weights, block_size)
    blocks = math.ceil(columns / block_size)
    assert packed.shape == (out, blocks, block_size // 2), (
        f"[{out}, {columns}] in blocks of {block_size} has shape {packed.shape}, "
        f"not {(out, blocks, block_size // 2)}"
    )
    assert scales.shape == (out, blocks), f"scales have shape {scales.shape}"
    error = np.abs(read(packed, scales, columns) - weights)
    step = np.repeat(np.abs(scales), block_size, axis=1)[:, :columns]
    worst = np.unravel_index((error - step).argmax(), error.shape)
    assert np.all(error <= 1.0001 * step), (
        f"weight {weights[worst]:.5g} moved by {error[worst]:.3g}, a step is {step[worst]:.3g}"
    )


@pytest.mark.exercise("4.7")
def test_the_largest_magnitude_of_a_block_is_stored_without_error():
    """-8 exists and +8 does not: the scale takes the sign that makes the largest weight -8.

    Blocks whose largest weight is positive get a negative scale. With ``max |w| / 7`` one of 16
    codes is never used and every step is 14 % longer.
    """
    weights = gaussian(8, 64)
    weights[:, 5], weights[:, 40] = 4.0, -4.5
    packed, scales = int4.quantize_blocks(weights, 32)
    found = read(packed, scales, 64)[:, [5, 40]]
    assert np.allclose(found, [4.0, -4.5], rtol=1e-6), f"4 and -4.5 came back as {found[0]}"
    assert np.allclose(scales, [-0.5, 0.5625], rtol=1e-6), f"scales {scales[0]}"


@pytest.mark.exercise("4.7")
def test_every_block_keeps_its_own_precision():
    """A block a thousand times smaller than its neighbour in the same row keeps its 10 %."""
    weights = gaussian(4, 64)
    weights[:, 32:] *= 0.001
    packed, scales = int4.quantize_blocks(weights, 32)
    back = read(packed, scales, 64)[:, 32:]
    error = np.linalg.norm(back - weights[:, 32:]) / np.linalg.norm(weights[:, 32:])
    assert error < 0.15, f"the small blocks have a relative error of {error:.2f}"


@pytest.mark.exercise("4.7")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_block_of_zeros_comes_back_as_zeros():
    """A pruned block: code 8 everywhere, and nothing divides by zero."""
    weights = gaussian(2, 64)
    weights[0, :32] = 0
    packed, scales = int4.quantize_blocks(weights, 32)
    assert np.isfinite(scales).all(), f"scales {scales.tolist()}"
    assert packed[0, 0].tolist() == [0x88] * 16, f"bytes {packed[0, 0].tolist()}, expected 0x88"
    assert not read(packed, scales, 64)[0, :32].any()


@settings(derandomize=True, deadline=None, max_examples=20)
@given(columns=st.integers(1, 70), seed=st.integers(0, 99))
def test_unpacking_is_the_inverse_of_packing(columns, seed):
    weights = gaussian(3, columns, seed)
    packed, scales = int4.quantize_blocks(weights, 16)
    assert np.array_equal(
        int4.dequantize_blocks(packed, scales, columns), read(packed, scales, columns)
    )
    again, scales_again = int4.quantize_blocks(int4.dequantize_blocks(packed, scales, columns), 16)
    assert np.array_equal(int4.unpack_codes(again), int4.unpack_codes(packed))
    assert scales_again == pytest.approx(scales)


def linear(path, weights: np.ndarray):
    """An ONNX file of x [b, in] -> y = x @ weights.T."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="linear")],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", weights.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", weights.shape[0]])],
        [numpy_helper.from_array(np.ascontiguousarray(weights.T), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("columns", [64, 50, 33])
def test_onnx_runtime_stores_these_very_bytes_and_scales(columns, tmp_path):
    """Byte for byte, up to what fills the last block, which no kernel reads."""
    import onnx
    from onnx import numpy_helper

    weights = gaussian(8, columns)
    path = int4.quantize_int4(linear(tmp_path / "m.onnx", weights), tmp_path / "q.onnx")
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    packed, scales = int4.quantize_blocks(weights, 32)
    ours, theirs = (
        int4.unpack_codes(each).reshape(8, -1)[:, :columns] for each in (packed, tensors["w_Q4"])
    )
    assert np.array_equal(ours, theirs)
    assert np.array_equal(scales, tensors["w_scales"].reshape(scales.shape))


def test_onnx_runtime_computes_with_the_unpacked_weights(tmp_path):
    """Without a level it multiplies in float32; with level 4 activations are rounded as well."""
    from labs.lab4_model_serving.export import run, session

    weights, x = gaussian(16, 64), gaussian(5, 64, seed=1)
    fp32 = linear(tmp_path / "m.onnx", weights)
    expected = x @ int4.dequantize_blocks(*int4.quantize_blocks(weights, 32), 64).T
    errors = {}
    for level in (0, 4):
        path = int4.quantize_int4(fp32, tmp_path / f"{level}.onnx", accuracy_level=level)
        assert set(int4.accuracy_levels(path).values()) == {level}
        found = run(session(path), {"x": x})["y"]
        errors[level] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert errors[0] < 1e-5
    assert errors[4] < 0.02


def test_smaller_blocks_are_more_exact_and_larger(tmp_path):
    weights = gaussian(32, 256)
    errors = [
        np.linalg.norm(int4.dequantize_blocks(*int4.quantize_blocks(weights, size), 256) - weights)
        for size in (16, 32, 128)
    ]
    assert errors == sorted(errors)
    sizes = [int4.bytes_per_weight(size) for size in (16, 32, 128)]
    assert sizes == [0.75, 0.625, 0.53125]
    path = int4.quantize_int4(linear(tmp_path / "m.onnx", weights), tmp_path / "q.onnx")
    overhead = path.stat().st_size - 32 * 256 * int4.bytes_per_weight(32)
    assert 0 < overhead < 1000


def test_embeddings_are_quantized_only_where_asked(tmp_path):
    """A look-up table is no MatMul: by default it stays float32, and is most of the file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table, weights = gaussian(2000, 64), gaussian(64, 16)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="embedding"),
        helper.make_node("MatMul", ["rows", "w"], ["y"], name="linear"),
    ]
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 16])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    sizes = {
        embeddings: int4.quantize_int4(
            tmp_path / "m.onnx", tmp_path / "q.onnx", embeddings=embeddings
        )
        .stat()
        .st_size
        for embeddings in (False, True)
    }
    assert sizes[False] > 0.95 * 4 * table.size
    assert sizes[True] < 0.18 * 4 * table.size


def test_what_cannot_be_quantized_is_named_and_nothing_is_left(tmp_path):
    fp32 = linear(tmp_path / "m.onnx", gaussian(8, 32))
    with pytest.raises(InputError, match="block_size = 20"):
        int4.quantize_int4(fp32, tmp_path / "q.onnx", block_size=20)
    with pytest.raises(InputError, match="accuracy_level = 5"):
        int4.quantize_int4(fp32, tmp_path / "q.onnx", accuracy_level=5)
    with pytest.raises(InputError, match=r"absent\.onnx"):
        int4.quantize_int4(tmp_path / "absent.onnx", tmp_path / "q.onnx")
    with pytest.raises(RunError, match="nothing was quantized"):
        int4.quantize_int4(fp32, tmp_path / "q.onnx", keep_float=["linear"])
    with pytest.raises(InputError, match="no MatMulNBits"):
        int4.accuracy_levels(fp32)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
