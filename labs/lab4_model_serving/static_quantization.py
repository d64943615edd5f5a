"""Static INT8: activations get their ranges from calibration texts, before the model is served.

Dynamic INT8 looks for the smallest and largest value of every activation in every run, and takes
one scale for a whole batch, batch-mates included. Static INT8 has fixed scales: nothing to look
for, the same answer in any company, and a range that is wrong wherever calibration did not look.

The result is a QDQ graph: a pair of QuantizeLinear and DequantizeLinear at every input of a
product. It says what is rounded where; ONNX Runtime fuses pairs and product into integer kernels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import RunError, require
from common.onnx_files import quiet, whole
from labs.lab4_model_serving.paired_accuracy import PairedAccuracy, logits, paired_accuracy
from labs.lab4_model_serving.quantization import preprocess
from labs.lab4_model_serving.tokens import pad

if TYPE_CHECKING:
    import onnx

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)
Inputs = Mapping[str, NDArray[Any]]
"""Input name to array: one batch."""

PRODUCTS = ("MatMul", "Gemm")
OPERATORS = (*PRODUCTS, "Gather")
"""The products, and the look-up of embeddings, which is where most of a small model's bytes are.

ONNX Runtime's default is :func:`every_operator`, the Add and the Softmax of the attention mask
among them: its -10,000 makes a step of 39, in which all scores are equal.
"""


def every_operator() -> tuple[str, ...]:
    """What ONNX Runtime's ``quantize_static`` quantizes unless told otherwise: all it can."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return tuple(sorted({*QLinearOpsRegistry, *QDQRegistry}))


def calibration_batches(ids: Sequence[Sequence[int]], batch: int = 16) -> list[Inputs]:
    """Rows of token ids to model inputs, as a server would batch them: padded to the longest.

    Raises
    ------
    InputError
        No rows, or ``batch`` < 1.
    """
    require(batch >= 1, "batch", batch, "must be >= 1")
    require(len(ids) >= 1, "calibration texts", len(ids), "must be at least 1", "take 100 or more")
    return [pad(ids[at : at + batch]) for at in range(0, len(ids), batch)]


class _OneBatch:
    """What a calibrator reads from: one batch, then None."""

    def __init__(self, inputs: Inputs) -> None:
        self._left: list[Inputs] = [inputs]

    def get_next(self) -> Inputs | None:
        return self._left.pop() if self._left else None


@dataclass(frozen=True)
class Calibration:
    """What calibration saw: a prepared model, and the range of each observed tensor."""

    prepared: Path
    ranges: dict[str, tuple[float, float]]
    method: Method
    operators: tuple[str, ...]
    batches: int


def calibrate(
    fp32_path: Path,
    batches: Sequence[Inputs],
    folder: Path,
    *,
    method: Method = "minmax",
    operators: Sequence[str] = OPERATORS,
    percentile: float = 99.999,
) -> Calibration:
    """Run a model on calibration batches and choose a range for each activation.

    Parameters
    ----------
    folder
        Where the prepared model goes; keep it as long as the result is used.
    method
        ``"minmax"`` keeps every value seen. ``"entropy"`` moves the limits inwards to where the
        rounded histogram is nearest to the true one (least Kullback-Leibler divergence).
        ``"percentile"`` cuts off all but ``percentile`` % of the magnitudes. The last two give up
        outliers for finer steps everywhere else.
    operators
        Whose inputs and outputs are observed.

    Raises
    ------
    InputError
        An unknown method, no batches, or no model.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    require(method in METHODS, "method", method, f"must be one of {METHODS}")
    require(len(batches) >= 1, "calibration batches", len(batches), "must be at least 1")
    require(0 < percentile <= 100, "percentile", percentile, "must be in (0, 100]")
    folder.mkdir(parents=True, exist_ok=True)
    prepared = preprocess(fp32_path, folder / "prepared.onnx")
    chosen = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }[method]
    with quiet(), tempfile.TemporaryDirectory(prefix="calibrate-") as temporary:
        calibrator = create_calibrator(
            prepared,
            list(operators),
            augmented_model_path=str(Path(temporary) / "augmented.onnx"),
            calibrate_method=chosen,
            extra_options={"percentile": percentile} if method == "percentile" else {},
        )
        # One batch at a time: collected at once, histograms want every batch of the same shape.
        for inputs in batches:
            calibrator.collect_data(_OneBatch(inputs))
        found = calibrator.compute_data().data
    ranges = {
        name: (float(np.min(each.range_value[0])), float(np.max(each.range_value[1])))
        for name, each in found.items()
    }
    return Calibration(prepared, ranges, method, tuple(operators), len(batches))


def quantize_calibrated(
    calibration: Calibration,
    int8_path: Path,
    *,
    per_channel: bool = True,
    nodes: Collection[str] = (),
    keep_float: Collection[str] = (),
    reduce_range: bool = False,
    round_outputs: bool = False,
) -> Path:
    """Write the static INT8 version of a calibrated model, whole or not at all.

    Weights are symmetric int8, activations affine uint8.

    Parameters
    ----------
    per_channel
        A weight scale for each output channel; otherwise one for each matrix.
    nodes
        Names of the nodes to quantize; empty takes all.
    keep_float
        Names of nodes that stay float32; ``layer_sensitivity.layer_names`` says who is who.
    reduce_range
        7 bits, for CPUs without VNNI (``quantization.integer_instructions``).
    round_outputs
        Round what a product gives as well, to a calibrated range: ONNX Runtime's default. It then
        rounds twice, and logits above all that calibration saw become equal.

    Raises
    ------
    InputError
        A name that no node has.
    RunError
        Nothing was quantized.
    """
    import onnx

    model = _quantized(calibration, per_channel, nodes, keep_float, reduce_range, round_outputs)
    if not any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        raise RunError(
            f"{int8_path.name} has no quantized tensor: of the operators {calibration.operators} "
            "nothing was quantized"
        )
    with whole(int8_path) as partial:
        onnx.save(model, partial)
    return int8_path


def _quantized(
    calibration: Calibration,
    per_channel: bool,
    nodes: Collection[str],
    keep_float: Collection[str],
    reduce_range: bool,
    round_outputs: bool,
) -> onnx.ModelProto:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = onnx.load(calibration.prepared)
    known = {node.name for node in model.graph.node}
    for name in (*nodes, *keep_float):
        require(name in known, "node", name, "is no node of the model", "layer_names lists them")
    ranges = {
        name: (np.array(low, np.float32), np.array(high, np.float32))
        for name, (low, high) in calibration.ranges.items()
    }
    with quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel,
            reduce_range,
            QuantType.QInt8,
            QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, ranges),
            list(nodes),
            list(keep_float),
            list(calibration.operators),
            {} if round_outputs else {"OpTypesToExcludeOutputQuantization": list(PRODUCTS)},
        )
        quantizer.quantize_model()
    done: onnx.ModelProto = quantizer.model.model
    return done


def quantize_static_int8(
    fp32_path: Path,
    int8_path: Path,
    batches: Sequence[Inputs],
    *,
    method: Method = "minmax",
    per_channel: bool = True,
    operators: Sequence[str] = OPERATORS,
    keep_float: Collection[str] = (),
    round_outputs: bool = False,
) -> Path:
    """Calibrate and quantize: :func:`calibrate`, then :func:`quantize_calibrated`."""
    with tempfile.TemporaryDirectory(prefix="static-") as folder:
        calibration = calibrate(
            fp32_path, batches, Path(folder), method=method, operators=operators
        )
        return quantize_calibrated(
            calibration,
            int8_path,
            per_channel=per_channel,
            keep_float=keep_float,
            round_outputs=round_outputs,
        )


@dataclass(frozen=True)
class CalibrationRow:
    """One way to calibrate: which data, which method, and how the model then decides."""

    data: str
    method: Method
    per_channel: bool
    against_fp32: PairedAccuracy


def compare_calibrations(
    fp32_path: Path,
    data: Mapping[str, Sequence[Inputs]],
    ids: Sequence[Sequence[int]],
    labels: ArrayLike,
    *,
    methods: Sequence[Method] = METHODS,
    per_channel: Sequence[bool] = (True, False),
    operators: Sequence[str] = OPERATORS,
    round_outputs: bool = False,
    batch: int = 32,
) -> list[CalibrationRow]:
    """Accuracy of static INT8 by calibration data, method and granularity of weight scales.

    Parameters
    ----------
    data
        Name to calibration batches.
    ids, labels
        Texts to judge on: not those of the calibration, and not the test set, if the best row is
        to be chosen.
    """
    reference = logits(fp32_path, ids, batch=batch)
    rows = []
    with tempfile.TemporaryDirectory(prefix="calibrations-") as folder:
        for name, batches in data.items():
            for method in methods:
                seen = calibrate(
                    fp32_path, batches, Path(folder), method=method, operators=operators
                )
                for each in per_channel:
                    path = quantize_calibrated(
                        seen,
                        Path(folder) / "int8.onnx",
                        per_channel=each,
                        round_outputs=round_outputs,
                    )
                    pair = paired_accuracy(reference, logits(path, ids, batch=batch), labels)
                    rows.append(CalibrationRow(name, method, each, pair))
    return rows


def quantized_products(model: onnx.ModelProto) -> list[str]:
    """Names of the MatMul and Gemm nodes whose two factors are both dequantized integers."""
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in PRODUCTS
        and all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2])
    ]
