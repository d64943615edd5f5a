"""INT8 by hand, for weights and for activations, and ONNX Runtime's dynamic INT8 of a model.

Weights are symmetric int8 with one scale a channel. Activations are affine uint8: a scale and a
zero point, taken at run time from each batch ("dynamic", here) or from a calibration before
("static", :mod:`static_quantization`).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, RunError, require
from common.exercises import exercise
from common.onnx_files import quiet, whole

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


@exercise(
    "4.6",
    points=10,
    title="Scale and zero point of an affine range",
    hint="255 steps, not 256. Zero has to be a grid point: widen the range to hold it, then round "
    "the zero point to an integer. Which code must a range of only negative numbers give to zero? "
    "And what if every value seen was zero?",
)
def affine_parameters(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point that map the range [low, high] of activations to uint8.

    A value x is stored as ``q = clip(round(x / scale) + zero_point, 0, 255)`` and read back as
    ``scale * (q - zero_point)``.

    Parameters
    ----------
    low, high
        Smallest and largest value that calibration saw.

    Returns
    -------
    scale : float
        ``(high - low) / 255`` after the range was widened, where needed, to include zero; 1 when
        the range is only the number zero.
    zero_point : int
        The code of 0.0, ``round(-low / scale)``, in [0, 255]. So 0.0 is stored without error:
        padding and ReLU make many exact zeros, and an error in them is the same in every sum.

    Raises
    ------
    InputError
        A limit that is not finite, or ``low`` > ``high``.

    References
    ----------
    Jacob et al., CVPR 2018, equation 1 and section 3.1.
    """
    finite = bool(np.isfinite(low) and np.isfinite(high))
    require(finite, "range", (low, high), "must be finite", "drop NaN and infinity before")
    require(low <= high, "low", low, f"must be <= high = {high}")
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    if scale < np.finfo(np.float32).tiny:  # zero, or so small that dividing by it overflows
        return 1.0, 0
    return scale, round(-low / scale)


def quantize_affine(
    values: NDArray[np.float32], scale: float, zero_point: int
) -> NDArray[np.uint8]:
    """uint8 codes of values of any shape; what lies outside the range saturates at 0 or 255.

    Rounds halves to even, as ONNX's QuantizeLinear does.
    """
    steps = np.rint(values / np.float32(scale)) + zero_point
    codes: NDArray[np.uint8] = np.clip(steps, 0, 255).astype(np.uint8)
    return codes


def dequantize_affine(
    codes: NDArray[np.uint8], scale: float, zero_point: int
) -> NDArray[np.float32]:
    """The values that uint8 codes stand for, ``scale * (q - zero_point)``."""
    values: NDArray[np.float32] = (codes.astype(np.float32) - zero_point) * np.float32(scale)
    return values


INTEGER_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni")


def integer_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The best int8 multiply-add of this x86 CPU: one of ``INTEGER_INSTRUCTIONS``, or ``"none"``.

    They add u8 x s8 products into 32 bits. Without them a kernel has vpmaddubsw, which adds two
    products into *16* bits and saturates: 2 x 255 x 127 = 64,770 > 32,767. Weights of 7 bits keep
    2 x 255 x 64 = 32,640 below it; that is what ``reduce_range`` is for.
    """
    if not cpuinfo.is_file():
        return "none"
    flags: set[str] = set()
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.partition(":")[2].split())
            break
    return next((name for name in INTEGER_INSTRUCTIONS if name in flags), "none")


def preprocess(fp32_path: Path, prepared: Path) -> Path:
    """Infer shapes and fold constants, so that every weight is an initializer of its product.

    Raises
    ------
    InputError
        ``fp32_path`` does not exist.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not fp32_path.is_file():
        raise InputError(f"no ONNX model at {fp32_path}; export one first (export_onnx)")
    with quiet():
        quant_pre_process(fp32_path, prepared, skip_symbolic_shape=True)
    # A weight that was transposed may keep the shape it had, and some versions of onnx refuse the
    # contradiction. Quantizers read the types, and infer the shapes anew.
    model = onnx.load(prepared)
    for value in model.graph.value_info:
        value.type.tensor_type.ClearField("shape")
    onnx.save(model, prepared)
    return prepared


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

    with tempfile.TemporaryDirectory(prefix="quantize-") as folder, whole(int8_path) as partial:
        prepared = preprocess(fp32_path, Path(folder) / "prepared.onnx")
        with quiet():
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
    return int8_path


def operator_counts(path: Path) -> Counter[str]:
    """How often each operator occurs in an ONNX file."""
    import onnx

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
