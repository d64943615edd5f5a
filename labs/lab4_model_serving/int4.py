"""INT4 weight-only: two weights a byte, a scale for each block; activations stay floating point.

Four bits hold 16 values, too few for a whole channel. So every block of 16 to 128 neighbours along
the input gets a scale of its own. It saves memory traffic: where a product reads each weight once
for one row (a language model writing a token), an eighth of the bytes is what counts. Where it
computes with many rows, unpacking comes on top.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, RunError, require
from common.exercises import exercise
from common.onnx_files import quiet, whole
from labs.lab4_model_serving.quantization import operator_counts, preprocess

ZERO_POINT = 8  # the code of 0.0
BLOCK_SIZES = (16, 32, 64, 128, 256)  # what ONNX Runtime's MatMulNBits takes
INT8_LEVEL = 4  # accuracy_level: 0 unset, 1 float32, 2 float16, 3 bfloat16, 4 int8


@exercise(
    "4.7",
    points=10,
    title="Blockwise INT4, two values a byte",
    hint="-8 to 7 is longer on the negative side: let each block's largest magnitude, with its "
    "sign, become -8 exactly, so the scale may be negative. Add 8 to get codes 0 to 15. Even "
    "places go into the low half of a byte. Fill the last block with zeros, which have code 8.",
)
def quantize_blocks(
    weights: NDArray[np.float32], block_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantize a weight matrix to 4 bits with a scale for each block of a row, and pack it.

    In a block with the largest magnitude m (with its sign): ``scale = m / -8``, and each weight w
    gets the code ``clip(round(w / scale) + 8, 0, 15)``. A block of zeros has scale 0 and codes 8.

    Parameters
    ----------
    weights : float32 [out, in]
    block_size
        Even. The last block of a row is filled up with 0.0 when ``in`` is no multiple of it.

    Returns
    -------
    packed : uint8 [out, blocks, block_size / 2]
        ``blocks = ceil(in / block_size)``. Byte j of a block holds code 2j in its low four bits
        and code 2j + 1 in its high four.
    scales : float32 [out, blocks]

    References
    ----------
    The layout of ONNX Runtime's MatMulNBits (ContribOperators.md) with symmetric weights.
    """
    out, columns = weights.shape
    blocks = ceil(columns / block_size)
    padded = np.zeros((out, blocks * block_size), np.float32)
    padded[:, :columns] = weights
    each = padded.reshape(out, blocks, block_size)
    place = np.abs(each).argmax(axis=2)[..., None]
    scales = (np.take_along_axis(each, place, axis=2) / -8).astype(np.float32)
    steps = np.divide(each, scales, out=np.zeros_like(each), where=scales != 0)
    codes = np.clip(np.rint(steps) + ZERO_POINT, 0, 15).astype(np.uint8)
    packed: NDArray[np.uint8] = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed, scales[..., 0]


def unpack_codes(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes 0 to 15 [..., 2 n] of packed bytes [..., n]; the low half of a byte comes first."""
    codes = np.stack([packed & 0x0F, packed >> 4], axis=-1)
    return codes.reshape(*packed.shape[:-1], -1)


def dequantize_blocks(
    packed: NDArray[np.uint8], scales: NDArray[np.float32], columns: int
) -> NDArray[np.float32]:
    """The matrix [out, columns] that packed weights [out, blocks, bytes] stand for."""
    values = (unpack_codes(packed).astype(np.float32) - ZERO_POINT) * scales[..., None]
    return values.reshape(len(packed), -1)[:, :columns]


def bytes_per_weight(block_size: int, *, bits: int = 4, scale_bytes: int = 4) -> float:
    """What a weight takes with its share of the block's scale; 4 is float32."""
    return bits / 8 + scale_bytes / block_size


def quantize_int4(
    fp32_path: Path,
    int4_path: Path,
    *,
    block_size: int = 32,
    symmetric: bool = True,
    accuracy_level: int = INT8_LEVEL,
    embeddings: bool = True,
    keep_float: Collection[str] = (),
) -> Path:
    """Write the INT4 weight-only version of an ONNX model, whole or not at all.

    Parameters
    ----------
    symmetric
        Zero is code 8 in every block; otherwise each block stores a zero point too.
    accuracy_level
        What MatMulNBits computes in. 4 rounds activations to int8, block by block, and multiplies
        integers; 0 leaves the attribute out, which is ONNX Runtime's default, and unpacks to
        float32.
    embeddings
        Quantize what Gather looks up as well. ONNX Runtime's default is MatMul alone, and a Gemm
        stays float32 either way.
    keep_float
        Names of nodes that stay float32.

    Raises
    ------
    InputError
        No model, or a block size or level that MatMulNBits does not have.
    RunError
        No MatMul with constant weights.
    """
    import onnx

    with quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    require(block_size in BLOCK_SIZES, "block_size", block_size, f"must be one of {BLOCK_SIZES}")
    require(0 <= accuracy_level <= 4, "accuracy_level", accuracy_level, "must be from 0 to 4")
    with tempfile.TemporaryDirectory(prefix="int4-") as folder, whole(int4_path) as partial:
        model = onnx.load(preprocess(fp32_path, Path(folder) / "prepared.onnx"))
        with quiet():
            quantizer = MatMulNBitsQuantizer(
                model,
                bits=4,
                block_size=block_size,
                is_symmetric=symmetric,
                accuracy_level=accuracy_level or None,
                nodes_to_exclude=list(keep_float),
                op_types_to_quantize=("MatMul", "Gather") if embeddings else ("MatMul",),
            )
            quantizer.process()
            quantizer.model.save_model_to_file(str(partial), False)
        operators = operator_counts(partial)
        if not operators["MatMulNBits"]:
            raise RunError(
                f"{fp32_path.name} has no MatMul with constant weights, only "
                f"{dict(operators.most_common(5))}: nothing was quantized"
            )
    return int4_path


def accuracy_levels(path: Path) -> dict[str, int]:
    """The ``accuracy_level`` of each MatMulNBits of a file; 0 where it was left out.

    Raises
    ------
    InputError
        The file has none.
    """
    import onnx

    found = {
        node.name: next((a.i for a in node.attribute if a.name == "accuracy_level"), 0)
        for node in onnx.load(path).graph.node
        if node.op_type == "MatMulNBits"
    }
    if not found:
        raise InputError(f"{path} has no MatMulNBits; make it with quantize_int4")
    return found
