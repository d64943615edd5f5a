"""Which precision is fastest depends on how many rows a product has: a table, measured.

With one row a matrix product waits for its weights, and fewer bytes are faster. With many rows the
weights stay in the cache and arithmetic decides; there an INT4 weight that is unpacked to float32
for every use costs more than it saves. Where the lines cross is a fact of the machine.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from labs.lab4_model_serving.int4 import quantize_int4
from labs.lab4_model_serving.quantization import quantize_int8
from labs.lab4_model_serving.static_quantization import Inputs, quantize_static_int8

Precision = Literal["fp32", "int8_dynamic", "int8_static", "int4", "int4_level4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
BATCHES = (1, 8, 32, 64)

Batcher = Callable[[int], Sequence[Inputs]]
"""Batch size to the inputs of one pass: the same items at every size, cut into batches."""


def build_precisions(
    fp32_path: Path,
    folder: Path,
    calibration: Sequence[Inputs],
    *,
    block_size: int = 32,
) -> dict[Precision, Path]:
    """One ONNX file a precision; embeddings are quantized with the rest.

    ``int8_static`` is calibrated by minmax with a scale a channel; ``int4`` leaves
    ``accuracy_level`` out, as ONNX Runtime does by default, ``int4_level4`` sets it.
    """
    return {
        "fp32": fp32_path,
        "int8_dynamic": quantize_int8(fp32_path, folder / "int8_dynamic.onnx"),
        "int8_static": quantize_static_int8(fp32_path, folder / "int8_static.onnx", calibration),
        "int4": quantize_int4(
            fp32_path, folder / "int4.onnx", block_size=block_size, accuracy_level=0
        ),
        "int4_level4": quantize_int4(
            fp32_path, folder / "int4_level4.onnx", block_size=block_size, accuracy_level=4
        ),
    }


def linear_layer(path: Path, *, inputs: int = 1024, outputs: int = 4096, seed: int = 0) -> Path:
    """An ONNX file of one product, ``logits [b, outputs] = x [b, inputs] W``, W Gaussian."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    scale = np.float32(1 / np.sqrt(inputs))
    weights = np.random.default_rng(seed).normal(size=(inputs, outputs)).astype(np.float32) * scale
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["logits"], name="linear")],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(weights, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def row_batcher(rows: NDArray[np.float32]) -> Batcher:
    """Rows [n, inputs] for :func:`linear_layer`."""
    return lambda batch: [{"x": rows[at : at + batch]} for at in range(0, len(rows), batch)]


def text_batcher(ids: Sequence[Sequence[int]], items: int = 64) -> Batcher:
    """The ``items`` texts whose lengths are nearest to the median, so that padding is small.

    What padding costs is another question (batches by length); here every batch size computes
    nearly the same tokens.

    Raises
    ------
    InputError
        Fewer texts than ``items``.
    """
    from labs.lab4_model_serving.tokens import pad

    require(len(ids) >= items, "texts", len(ids), f"must be at least items = {items}")
    lengths = np.array([len(row) for row in ids])
    nearest = np.argsort(np.abs(lengths - np.median(lengths)), kind="stable")[:items]
    chosen = [ids[row] for row in nearest]
    return lambda batch: [pad(chosen[at : at + batch]) for at in range(0, items, batch)]


@dataclass(frozen=True)
class Cell:
    """Microseconds an item: median and quartiles over ``rounds`` passes."""

    precision: str
    batch: int
    median_us: float
    low_us: float
    high_us: float
    rounds: int


@dataclass(frozen=True)
class Crossover:
    """Times of every precision at every batch size.

    ``us`` maps (precision, batch) to microseconds an item [rounds]; round i of every cell was
    taken at about the same time, so a disturbance of the machine is in all of them.
    """

    us: dict[tuple[str, int], NDArray[np.float64]]
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    threads: int

    def cell(self, precision: str, batch: int) -> Cell:
        """Median and quartiles; ``InputError`` for what was not measured."""
        times = self._times(precision, batch)
        low, median, high = (float(q) for q in np.quantile(times, [0.25, 0.5, 0.75]))
        return Cell(precision, batch, median, low, high, len(times))

    def cells(self) -> list[Cell]:
        return [self.cell(each, batch) for each in self.precisions for batch in self.batches]

    def speedup(self, precision: str, batch: int) -> tuple[float, float, float]:
        """How many times as fast as the first precision: median and quartiles of rounds' ratios."""
        ratios = self._times(self.precisions[0], batch) / self._times(precision, batch)
        low, median, high = (float(q) for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
        return median, low, high

    def fastest(self, batch: int) -> str:
        """The precision with the least median at a batch size."""
        return min(self.precisions, key=lambda each: self.cell(each, batch).median_us)

    def loses_from(self, precision: str) -> int | None:
        """The first batch size at which a precision is slower than the first one; None if never.

        Slower beyond noise: the upper quartile of the rounds' ratios is below 1.
        """
        slower = [batch for batch in self.batches if self.speedup(precision, batch)[2] < 1]
        return slower[0] if slower else None

    def _times(self, precision: str, batch: int) -> NDArray[np.float64]:
        try:
            return self.us[precision, batch]
        except KeyError:
            raise InputError(
                f"{precision!r} at batch {batch} was not measured; there are {self.precisions} "
                f"at {self.batches}"
            ) from None


def measure_crossover(
    models: Mapping[str, Path],
    batcher: Batcher,
    *,
    batches: Sequence[int] = BATCHES,
    rounds: int = 7,
    threads: int = 1,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> Crossover:
    """Time every model at every batch size on the same items.

    A round passes once over the items with each model at each batch size, in an order that
    rotates: measured one after the other, a model could have the machine's quiet minute to itself.

    Parameters
    ----------
    models
        Precision to ONNX file; the first is what the others are compared with.
    batcher
        :func:`text_batcher` or :func:`row_batcher`; the largest batch size has to divide the
        number of items for all sizes to do the same work.
    rounds
        At least 3, for quartiles.
    threads
        Intra-op threads of ONNX Runtime.
    device
        ``"cpu"`` or ``"cuda"``, where all of them run.
    clock
        Seconds.

    Raises
    ------
    InputError
        No models or batch sizes, too few rounds, a batch size below 1.
    """
    from labs.lab4_model_serving.export import session

    require(len(models) >= 1, "models", len(models), "must be at least 1")
    require(len(batches) >= 1 and min(batches) >= 1, "batches", tuple(batches), "must be >= 1")
    require(rounds >= 3, "rounds", rounds, "must be >= 3")
    opened = {name: session(path, threads=threads, device=device) for name, path in models.items()}
    passes = {batch: [dict(each) for each in batcher(batch)] for batch in batches}
    items = {
        batch: sum(len(next(iter(each.values()))) for each in inputs)
        for batch, inputs in passes.items()
    }
    cells = [(name, batch) for name in opened for batch in batches]
    times: dict[tuple[str, int], list[float]] = {cell: [] for cell in cells}
    for name, batch in cells:  # warm up: memory is planned for each shape it meets
        for inputs in passes[batch]:
            opened[name].run(None, inputs)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            at = turn % len(cells)
            for name, batch in cells[at:] + cells[:at]:
                started = clock()
                for inputs in passes[batch]:
                    opened[name].run(None, inputs)
                times[name, batch].append(1e6 * (clock() - started) / items[batch])
    finally:
        if collecting:
            gc.enable()
    return Crossover(
        us={cell: np.array(found) for cell, found in times.items()},
        precisions=tuple(models),
        batches=tuple(batches),
        threads=threads,
    )
