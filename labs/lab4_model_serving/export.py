"""Export a PyTorch model: to ``torch.export``'s program, and to ONNX; run both.

The older road, TorchScript, is in ``torchscript.py``; the proof that all answer the same in
``parity.py`` and ``parity_report.py``.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from common.errors import InputError, RunError
from labs.lab4_model_serving.ort_options import SessionSettings, open_session
from labs.lab4_model_serving.parity import Arrays, Parity, parity, require_parity

if TYPE_CHECKING:
    import torch

__all__ = [
    "Arrays",
    "Parity",
    "export_onnx",
    "export_program",
    "load_program",
    "parity",
    "require_parity",
    "run",
    "run_program",
    "session",
]


def export_program(
    model: torch.nn.Module,
    example_inputs: dict[str, torch.Tensor],
    path: Path,
    *,
    dynamic: dict[str, dict[int, str]],
    longest: Mapping[str, int] | None = None,
) -> torch.export.ExportedProgram:
    """Capture ``model`` with ``torch.export`` and save it as ``.pt2``.

    The program is a graph of ATen operators and its weights, without Python. What it takes for
    granted of its inputs (types, ranks, ranges of dynamic axes) is kept beside the graph and
    checked at every call, where a trace would silently answer wrong.

    Parameters
    ----------
    example_inputs
        One example batch, in the order of the arguments of ``model.forward``; dynamic axes with
        a size of at least 2.
    dynamic
        Input name to {axis: symbolic name}; axes of one name have one size.
    longest
        Symbolic name to the largest size (default: none), such as the number of positions.

    Raises
    ------
    InputError
        A dynamic axis names an unknown input, or has size < 2 in the example.
    RunError
        The model cannot be captured: it branches on values, or makes a dynamic axis constant.
    """
    import torch
    from torch._dynamo.exc import TorchDynamoException
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    _check_dynamic(example_inputs, dynamic)
    names = sorted({name for axes in dynamic.values() for name in axes.values()})
    dims = {name: torch.export.Dim(name, max=(longest or {}).get(name)) for name in names}
    shapes = {
        name: {axis: dims[each] for axis, each in dynamic.get(name, {}).items()} or None
        for name in example_inputs
    }
    was_training = model.training
    model.eval()
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.pt2")
    try:
        with torch.no_grad():
            program = torch.export.export(
                model, tuple(example_inputs.values()), dynamic_shapes=tuple(shapes.values())
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(program, partial)
        partial.replace(path)
    except (TorchDynamoException, GuardOnDataDependentSymNode) as error:
        raise RunError(f"torch.export cannot capture {type(model).__name__}: {error}") from error
    finally:
        model.train(was_training)
        partial.unlink(missing_ok=True)
    return program


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Read a ``.pt2`` back; the class of the model is not needed.

    Raises
    ------
    InputError
        The file is missing.
    """
    import torch

    if not path.is_file():
        raise InputError(f"no exported program at {path}; write one first (export_program)")
    return torch.export.load(path)


def run_program(module: torch.nn.Module, inputs: Arrays, *, device: str = "cpu") -> NDArray[Any]:
    """The first output of a module, scripted or ``program.module()``, for numpy inputs.

    Parameters
    ----------
    device
        Where the module's weights are; inputs are copied there and the output back.
    """
    import torch

    with torch.inference_mode():
        given = (torch.from_numpy(array).to(device) for array in inputs.values())
        answer: NDArray[Any] = module(*given).cpu().numpy()
    return answer


def _check_dynamic(
    example_inputs: dict[str, torch.Tensor], dynamic: dict[str, dict[int, str]]
) -> None:
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

    _check_dynamic(example_inputs, dynamic)
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


def session(
    path: Path, *, threads: int = 1, device: str = "cpu", device_id: int = 0
) -> ort.InferenceSession:
    """Open an ONNX file for inference.

    Parameters
    ----------
    threads
        Intra-op threads. A server with one worker a core wants 1: with the default (all cores),
        every worker starts a thread a core and they fight.
    device
        ``"cpu"``, ``"cuda"`` or ``"tensorrt"``.
    device_id
        Which of the GPUs.

    Raises
    ------
    InputError
        The file is missing, or the device is asked for and is not there.
    """
    settings = SessionSettings(intra_threads=threads, device=device, device_id=device_id)
    return open_session(path, settings)


def run(opened: ort.InferenceSession, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Run a session: input name to array in, output name to array out."""
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, dict(inputs)), strict=True))
