"""INT8: what quantization does to one weight matrix, and ONNX Runtime's dynamic INT8 of a model.

Weights are symmetric int8 with one scale a channel; activations get their scale and zero point at
run time from each batch ("dynamic"), so no calibration data is needed.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from common.errors import InputError, RunError
from common.exercises import exercise

INTEGER_OPERATORS = ("MatMulInteger", "DynamicQuantizeMatMul", "ConvInteger")


@exercise(
    "4.2",
    points=5,
    title="Symmetric INT8 quantization, a scale a channel",
    hint="One scale for each output channel, from the largest magnitude in it. 127, not 128: why? "
    "Round to the nearest integer before the cast. What is the scale of a channel of zeros?",
)
def quantize_symmetric(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """Quantize a weight matrix to int8 with one scale an output channel and no zero point.

    For channel o:  ``s_o = max_i |W_oi| / 127``,  ``Q_oi = round(W_oi / s_o)``,
    and ``W_oi`` is approximated by ``s_o * Q_oi``, with an error of at most ``s_o / 2``.

    Parameters
    ----------
    weights : float array [out, in]
        Row o holds the weights of output channel o (the layout of ``torch.nn.Linear``).

    Returns
    -------
    q : int8 array [out, in]
        In [-127, 127]; -128 is not used, so that the range is symmetric.
    scales : float32 array [out]
        Positive. A channel of zeros has scale 1.

    References
    ----------
    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
    Only Inference", CVPR 2018, equation 1 with Z = 0; per channel: Krishnamoorthi 2018, section 3.
    """
    largest = np.abs(weights).max(axis=1)
    scales = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    q = np.clip(np.rint(weights / scales[:, None]), -127, 127).astype(np.int8)
    return q, scales


def dequantize(q: NDArray[np.int8], scales: NDArray[Any]) -> NDArray[np.float32]:
    """The matrix that int8 weights [out, in] and scales [out] stand for."""
    weights: NDArray[np.float32] = q.astype(np.float32) * scales[:, None].astype(np.float32)
    return weights


def relative_error(weights: NDArray[Any], approximation: NDArray[Any]) -> float:
    """``||W - W'|| / ||W||`` in the Frobenius norm."""
    return float(np.linalg.norm(weights - approximation) / np.linalg.norm(weights))


def quantize_int8(fp32_path: Path, int8_path: Path, *, reduce_range: bool = False) -> Path:
    """Write the dynamic INT8 version of an ONNX model, whole or not at all.

    The graph is pre-processed first (shape inference and constant folding): a weight that reaches
    its MatMul through a Transpose is no initializer, and would silently stay float32.

    Parameters
    ----------
    reduce_range
        Use 7 bits for weights. For CPUs with AVX2 or AVX-512 but without VNNI, where the sum of
        two u8 x s8 products can overflow the 16 bits it is kept in.

    Raises
    ------
    InputError
        ``fp32_path`` does not exist.
    RunError
        The result has no integer matrix product: nothing was quantized.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not fp32_path.is_file():
        raise InputError(f"no ONNX model at {fp32_path}; export one first (export_onnx)")
    int8_path.parent.mkdir(parents=True, exist_ok=True)
    partial = int8_path.with_name(f".{int8_path.name}.{os.getpid()}.partial")
    with tempfile.TemporaryDirectory(prefix="quantize-") as folder, _root_logger_at(logging.ERROR):
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(fp32_path, prepared, skip_symbolic_shape=True)
        try:
            quantize_dynamic(
                prepared,
                partial,
                per_channel=True,
                reduce_range=reduce_range,
                weight_type=QuantType.QInt8,
            )
            operators = operator_counts(partial)
            if not any(operators[name] for name in INTEGER_OPERATORS):
                raise RunError(
                    f"{fp32_path.name} has no integer matrix product after quantization, only "
                    f"{dict(operators.most_common(5))}: it holds no MatMul or Gemm with constant "
                    "weights"
                )
            partial.replace(int8_path)
        finally:
            partial.unlink(missing_ok=True)
    return int8_path


@contextmanager
def _root_logger_at(level: int) -> Iterator[None]:
    # quantize_dynamic asks for the pre-processing on the root logger even when it has been done.
    root = logging.getLogger()
    before = root.level
    root.setLevel(level)
    try:
        yield
    finally:
        root.setLevel(before)


def operator_counts(path: Path) -> Counter[str]:
    """How often each operator occurs in an ONNX file."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@dataclass(frozen=True)
class SizeReport:
    """Bytes on disk before and after, and how many matrix products became integer."""

    fp32_bytes: int
    int8_bytes: int
    integer_products: int
    float_products: int

    @property
    def ratio(self) -> float:
        """INT8 size as a share of the float32 size (0.25 is the best that int8 weights give)."""
        return self.int8_bytes / self.fp32_bytes


def size_report(fp32_path: Path, int8_path: Path) -> SizeReport:
    """Compare the files, and count what stayed in floating point."""
    operators = operator_counts(int8_path)
    return SizeReport(
        fp32_bytes=fp32_path.stat().st_size,
        int8_bytes=int8_path.stat().st_size,
        integer_products=sum(operators[name] for name in INTEGER_OPERATORS),
        float_products=operators["MatMul"] + operators["Gemm"],
    )
