"""Half precision: weights and products in float16, for accelerators that compute it in hardware.

INT8 as ONNX Runtime makes it for CPUs is of no use on a GPU: its nodes (``DynamicQuantizeMatMul``,
``QAttention`` with unsigned activations) have no CUDA kernels, run on the CPU, and cost a copy
there and back. float16 has kernels for everything, halves the bytes and needs no calibration.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import InputError


def half_precision(path: Path, half: Path) -> Path:
    """Write an ONNX model in float16, whole or not at all; inputs and outputs keep their types.

    Parameters
    ----------
    path
        A float32 model, fused or not. The range of float16 ends at 65,504: a mask of -10,000 fits,
        one of -1e9 would become minus infinity.

    Raises
    ------
    InputError
        The file is missing.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if not path.is_file():
        raise InputError(f"no ONNX model at {path}; export one first (export_onnx)")
    # Shapes cannot be inferred through the operators that fusion has put in, and need not be.
    found = convert_float_to_float16(onnx.load(path), keep_io_types=True, disable_shape_infer=True)
    half.parent.mkdir(parents=True, exist_ok=True)
    partial = half.with_name(f".{half.name}.{os.getpid()}.partial")
    try:
        onnx.save(found, partial)
        partial.replace(half)
    finally:
        partial.unlink(missing_ok=True)
    return half
