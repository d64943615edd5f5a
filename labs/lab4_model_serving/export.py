"""Export a PyTorch model to ONNX, open it in ONNX Runtime, and prove that both answer the same."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from common.errors import InputError, RunError

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, NDArray[Any]]


def export_onnx(
    model: torch.nn.Module,
    example_inputs: dict[str, torch.Tensor],
    path: Path,
    *,
    output_names: Sequence[str],
    dynamic: dict[str, dict[int, str]],
) -> Path:
    """Write ``model`` as one ONNX file, whole or not at all.

    The graph comes from ``torch.export`` (``dynamo=True``), which follows the model's Python code
    symbolically. The older tracing exporter is deprecated, and freezes into a constant whatever
    Python computed from the example, such as a shape.

    Parameters
    ----------
    example_inputs
        One example batch, in the order of the arguments of ``model.forward``. Dynamic axes need a
        size of at least 2 here: a size of 1 would be taken for a constant.
    path
        The ONNX file; its folder is made.
    output_names
        Names of the outputs, in order.
    dynamic
        Input name to {axis: symbolic name}, such as ``{"input_ids": {0: "batch", 1: "tokens"}}``.

    Raises
    ------
    InputError
        A dynamic axis names an unknown input, or has size < 2 in the example.
    RunError
        The exporter made a dynamic axis constant.
    """
    import torch

    for name, axes in dynamic.items():
        if name not in example_inputs:
            raise InputError(
                f"dynamic names {name!r}, which is no input; the inputs are {list(example_inputs)}"
            )
        for axis in axes:
            size = example_inputs[name].shape[axis]
            if size < 2:
                raise InputError(
                    f"the example's axis {axis} of {name!r} has size {size}; a dynamic axis needs "
                    "an example of size 2 or more, because size 1 is exported as a constant"
                )
    # Without torchvision the exporter warns once for each torchvision operator.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # torch warns of its own internals, and that inputs share an axis name, which is meant.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", message="# The axis name")
            torch.onnx.export(
                model,
                tuple(example_inputs.values()),
                partial,
                input_names=list(example_inputs),
                output_names=list(output_names),
                dynamic_shapes=tuple(dynamic.get(name) for name in example_inputs),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        graph = onnx.load(partial)
        onnx.checker.check_model(graph)
        _require_dynamic(graph, dynamic)
        partial.replace(path)
    finally:
        model.train(was_training)
        partial.unlink(missing_ok=True)
    return path


def _require_dynamic(graph: onnx.ModelProto, dynamic: dict[str, dict[int, str]]) -> None:
    for value in graph.graph.input:
        for axis in dynamic.get(value.name, {}):
            dim = value.type.tensor_type.shape.dim[axis]
            if not dim.dim_param:
                raise RunError(
                    f"axis {axis} of {value.name!r} was exported as the constant {dim.dim_value}: "
                    "the model computes something from that size in Python; use tensor operations"
                )


def session(path: Path, *, threads: int = 1, device: str = "cpu") -> ort.InferenceSession:
    """Open an ONNX file for inference.

    Parameters
    ----------
    threads
        Intra-op threads. A server with one worker a core wants 1: with the default (all cores),
        every worker starts a thread a core and they fight.
    device
        ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    InputError
        The file is missing, or CUDA is asked for and this ONNX Runtime has no CUDA provider.
    """
    if not path.is_file():
        raise InputError(f"no ONNX model at {path}; export one first (export_onnx)")
    if device not in ("cpu", "cuda"):
        raise InputError(f"device = {device!r} must be 'cpu' or 'cuda'")
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise InputError(
                "device = 'cuda', but this onnxruntime has only "
                f"{ort.get_available_providers()}; install onnxruntime-gpu, or use device = 'cpu'"
            )
        providers.insert(0, "CUDAExecutionProvider")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    opened = ort.InferenceSession(str(path), options, providers=providers)
    if device == "cuda" and "CUDAExecutionProvider" not in opened.get_providers():
        raise InputError(
            "device = 'cuda', but the CUDA provider did not load (driver or CUDA libraries "
            "missing); see the messages above, or use device = 'cpu'"
        )
    return opened


def run(opened: ort.InferenceSession, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Run a session: input name to array in, output name to array out."""
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, dict(inputs)), strict=True))


@dataclass(frozen=True)
class Parity:
    """How far a candidate's outputs are from the reference's.

    Errors are over every element of every output. ``argmax_agreement`` is the share of rows, over
    the outputs with a class axis, whose largest element is at the same place; None without one.
    """

    max_abs_error: float
    mean_abs_error: float
    argmax_agreement: float | None
    worst_output: str
    n: int


def parity(reference_outputs: Arrays, candidate_outputs: Arrays) -> Parity:
    """Compare two runs of one model on the same inputs.

    Parameters
    ----------
    reference_outputs, candidate_outputs
        Output name to array [n, ...]; the last axis of an array of two or more axes and more than
        one column is taken as the class axis.

    Raises
    ------
    InputError
        The names or shapes differ, or there is nothing to compare.
    """
    if set(reference_outputs) != set(candidate_outputs):
        raise InputError(
            f"the reference has outputs {sorted(reference_outputs)}, "
            f"the candidate {sorted(candidate_outputs)}"
        )
    if not reference_outputs or not all(len(a) for a in reference_outputs.values()):
        raise InputError("nothing to compare: no outputs, or no rows")
    worst, worst_output, total, count, agree = -1.0, "", 0.0, 0, []
    for name, array in reference_outputs.items():
        reference = np.asarray(array, dtype=np.float64)
        candidate = np.asarray(candidate_outputs[name], dtype=np.float64)
        if reference.shape != candidate.shape:
            raise InputError(f"{name!r} has shape {reference.shape}, then {candidate.shape}")
        error = np.abs(reference - candidate)
        error[np.isnan(error)] = np.inf  # a NaN compares false with every limit, so it would pass
        total += float(error.sum())
        count += error.size
        if error.max() > worst:
            worst, worst_output = float(error.max()), name
        if reference.ndim > 1 and reference.shape[-1] > 1:
            agree.append((reference.argmax(-1) == candidate.argmax(-1)).ravel())
    return Parity(
        max_abs_error=worst,
        mean_abs_error=total / count,
        argmax_agreement=float(np.concatenate(agree).mean()) if agree else None,
        worst_output=worst_output,
        n=len(next(iter(reference_outputs.values()))),
    )


def require_parity(
    measured: Parity,
    *,
    max_abs_error: float | None = None,
    min_agreement: float | None = None,
) -> None:
    """The gate before serving: stop when a converted model answers something else.

    A float32 export should agree to about 1e-5. An INT8 model cannot: there the gate is the share
    of rows with the same decision, beside the task's own accuracy.

    Raises
    ------
    RunError
        A limit is not met. The message gives both values.
    InputError
        No limit is given, or agreement is asked of outputs without a class axis.
    """
    if max_abs_error is None and min_agreement is None:
        raise InputError("require_parity needs max_abs_error, min_agreement, or both")
    if max_abs_error is not None and not measured.max_abs_error <= max_abs_error:
        raise RunError(
            f"parity: output {measured.worst_output!r} differs by {measured.max_abs_error:.3g}, "
            f"the limit is {max_abs_error:.3g} ({measured.n} rows); do not serve this model"
        )
    if min_agreement is not None:
        if measured.argmax_agreement is None:
            raise InputError("min_agreement needs an output with a class axis")
        if not measured.argmax_agreement >= min_agreement:
            raise RunError(
                f"parity: {measured.argmax_agreement:.4f} of {measured.n} rows keep their largest "
                f"output, the limit is {min_agreement:.4f}; do not serve this model"
            )
