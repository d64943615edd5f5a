"""Which layers suffer from INT8, and which to leave in float32.

Each product and each look-up of embeddings is quantized alone, and the logits are compared with
float32: a table of n rows for n runs, where trying every subset would take 2^n. It works because
errors of layers are nearly independent, so that their squares add up.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import require
from labs.lab4_model_serving.export import session
from labs.lab4_model_serving.static_quantization import (
    PRODUCTS,
    Calibration,
    Inputs,
    quantize_calibrated,
)

if TYPE_CHECKING:
    import onnx


def layer_names(path: Path) -> dict[str, str]:
    """What each product and look-up of an exported model is: node name to a name from the model.

    An exporter numbers its nodes. The name is found in the bias that is added afterwards; a product
    of two activations has none and is called ``product <n>``, in order: with one attention layer
    after the other, the odd ones are Q K^T and the even ones softmax times V.
    """
    import onnx

    graph = onnx.load(path).graph
    constants = {each.name for each in graph.initializer}
    used_by: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            used_by.setdefault(name, []).append(node)
    names, unnamed, activations = {}, Counter[str](), 0
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in constants:
            names[node.name] = node.input[0].removesuffix(".weight")
        if node.op_type not in PRODUCTS:
            continue
        if node.input[1] not in constants:
            activations += 1
            names[node.name] = f"product {activations}"
            continue
        following = [node, *(each for each in used_by.get(node.output[0], ()))]
        biases = [
            name.removesuffix(".bias")
            for each in following
            if each.op_type in ("Add", "Gemm")
            for name in each.input
            if name in constants and name.endswith(".bias")
        ]
        unnamed["weight"] += not biases
        names[node.name] = biases[0] if biases else f"weight {unnamed['weight']}"
    return names


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one product, or one look-up, alone does to the logits.

    ``relative_error`` is ``||logits - fp32|| / ||fp32||`` over all texts; ``agreement`` the share
    of texts with the same decision.
    """

    node: str
    layer: str
    relative_error: float
    agreement: float


def layer_sensitivity(
    calibration: Calibration,
    inputs: Sequence[Inputs],
    *,
    per_channel: bool = True,
    output: str = "logits",
) -> list[Sensitivity]:
    """Quantize each product alone, and see what it does; the most sensitive first.

    Errors of layers add up roughly like independent noise, so the one with a large error alone is
    the one to leave in float32.

    Parameters
    ----------
    inputs
        Batches to look at; other texts than those of the calibration.

    Raises
    ------
    InputError
        No inputs.
    """
    require(len(inputs) >= 1, "batches", len(inputs), "must be at least 1")
    reference = _outputs(calibration.prepared, inputs, output)
    found = []
    with tempfile.TemporaryDirectory(prefix="sensitivity-") as folder:
        kinds = _kinds(calibration.prepared)
        for node, layer in layer_names(calibration.prepared).items():
            if kinds[node] not in calibration.operators:
                continue
            path = quantize_calibrated(
                calibration, Path(folder) / "one.onnx", nodes=[node], per_channel=per_channel
            )
            error, agreement = _distance(reference, _outputs(path, inputs, output))
            found.append(Sensitivity(node, layer, error, agreement))
    return sorted(found, key=lambda each: -each.relative_error)


@dataclass(frozen=True)
class Mixed:
    """The model with its ``n_float`` most sensitive products in float32.

    ``independent`` is the error that the remaining products would add up to as independent noise,
    ``sqrt(sum of squares)`` of their errors alone.
    """

    n_float: int
    keep_float: tuple[str, ...]
    relative_error: float
    independent: float
    agreement: float


def mixed_precision(
    calibration: Calibration,
    found: Sequence[Sensitivity],
    inputs: Sequence[Inputs],
    n_float: Sequence[int] = (0, 1, 2, 4),
    *,
    output: str = "logits",
) -> list[Mixed]:
    """Leave the most sensitive products in float32, more and more of them.

    Raises
    ------
    InputError
        A number outside 0 to ``len(found) - 1``: something has to be quantized.
    """
    ordered = sorted(found, key=lambda each: -each.relative_error)
    for n in n_float:
        require(0 <= n < len(ordered), "n_float", n, f"must be from 0 to {len(ordered) - 1}")
    reference = _outputs(calibration.prepared, inputs, output)
    rows = []
    with tempfile.TemporaryDirectory(prefix="mixed-") as folder:
        for n in n_float:
            names = tuple(each.node for each in ordered[:n])
            path = Path(folder) / "mixed.onnx"
            quantize_calibrated(calibration, path, keep_float=names)
            error, agreement = _distance(reference, _outputs(path, inputs, output))
            left = float(np.sqrt(sum(each.relative_error**2 for each in ordered[n:])))
            rows.append(Mixed(n, names, error, left, agreement))
    return rows


def _kinds(path: Path) -> dict[str, str]:
    import onnx

    return {node.name: node.op_type for node in onnx.load(path).graph.node}


def _distance(reference: NDArray[np.float32], found: NDArray[np.float32]) -> tuple[float, float]:
    error = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
    return error, float((found.argmax(axis=1) == reference.argmax(axis=1)).mean())


def _outputs(path: Path, inputs: Sequence[Inputs], output: str) -> NDArray[np.float32]:
    opened = session(path)
    return np.concatenate([opened.run([output], dict(each))[0] for each in inputs])
