"""A TorchServe handler for ONNX models: one batch of requests, one run of the model.

TorchServe hands a worker a list of requests that it held back for up to ``max_batch_delay``. The
handler turns each into rows, runs all rows at once, and gives every request its own rows back. A
request that cannot be understood gets status 400 with the reason, and does not touch the others.

What happens to a bad request among good ones is :func:`batch_isolation.answer_batch`, and what a
worker does for each request besides is in ``worker_io``.

The file packed into an archive must define exactly one class, so a handler is a file of its own::

    from labs.lab4_model_serving.onnx_handler import OnnxHandler

    class TensorHandler(OnnxHandler):
        pass
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.errors import RunError
from labs.lab4_model_serving import worker_io
from labs.lab4_model_serving.batch_isolation import BadRequest, Outcome, answer_batch
from labs.lab4_model_serving.export import run, session

__all__ = ["BadRequest", "OnnxHandler", "Rows"]

Rows = dict[str, NDArray[Any]]

ORT_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


log = logging.getLogger(__name__)
PHRASES = {400: "Bad Request", 413: "Content Too Large", 415: "Unsupported Media Type"}


class OnnxHandler:
    """Serves the one ``*.onnx`` file of its archive.

    Without changes it answers ``{"inputs": {name: [rows, ...]}}`` with
    ``{"outputs": {name: [rows, ...]}}``. Subclasses override the hooks: :meth:`setup`,
    :meth:`preprocess` (one request), :meth:`rows`, :meth:`collate` (the whole batch) and
    :meth:`postprocess` (one request). Work that is cheaper for many than for one, such as a
    tokenizer, belongs into :meth:`collate`; checks belong into :meth:`preprocess`, because an
    error in :meth:`collate` fails every request of the batch.
    """

    threads: ClassVar[int] = 1
    pad_values: ClassVar[dict[str, float]] = {}
    """Input name to the value that fills a ragged axis (default 0)."""

    def initialize(self, context: Any) -> None:
        """Called once in every worker, before it counts as ready.

        Raises
        ------
        RunError
            The archive does not hold exactly one ONNX file.
        """
        worker_io.tune()
        properties = context.system_properties
        self.folder = Path(properties["model_dir"])
        found = sorted(self.folder.glob("*.onnx"))
        if len(found) != 1:
            raise RunError(
                f"the archive of {context.model_name} must hold exactly one .onnx file, "
                f"it holds {[path.name for path in found]}"
            )
        gpu = properties.get("gpu_id")
        self.session = session(
            found[0],
            threads=self.threads,
            device="cpu" if gpu is None else "cuda",
            device_id=int(gpu or 0),
        )
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.setup()

    def setup(self) -> None:
        """Hook: load whatever else is in ``self.folder`` (a vocabulary, labels)."""

    def preprocess(self, request: Any) -> Any:
        """Hook: one parsed request to one example, in whatever form :meth:`collate` takes.

        Raises
        ------
        BadRequest
            The request cannot be served; the message is for the client.
        """
        if not isinstance(request, dict) or not isinstance(request.get("inputs"), dict):
            raise BadRequest('expected a JSON object {"inputs": {name: [rows, ...]}}')
        return self.check(request["inputs"])

    def rows(self, example: Any) -> int:
        """Hook: how many rows of the model's batch an example takes."""
        return len(next(iter(example.values())))

    def collate(self, examples: Sequence[Any]) -> Rows:
        """Hook: the examples of a batch to the model's inputs; ragged axes are padded at the end.

        Returns
        -------
        dict of arrays [sum of rows, ...]
        """
        return {
            name: _pad_and_join(
                [example[name] for example in examples], self.pad_values.get(name, 0)
            )
            for name in self.inputs
        }

    def postprocess(self, outputs: Rows) -> Any:
        """Hook: one request's rows of every output [rows, ...] to what JSON can hold."""
        return {"outputs": {name: array.tolist() for name, array in outputs.items()}}

    def check(self, rows: dict[str, Any]) -> Rows:
        """Inputs as arrays of the model's types and shapes; BadRequest names what does not fit."""
        if set(rows) != set(self.inputs):
            raise BadRequest(f"expected inputs {sorted(self.inputs)}, got {sorted(rows)}")
        checked = {}
        for name, expected in self.inputs.items():
            kind = ORT_TYPES[expected.type]
            try:
                array = np.asarray(rows[name])
            except ValueError as error:
                raise BadRequest(f"{name!r} is not rectangular: {error}") from error
            wanted = tuple(size if isinstance(size, int) else "any" for size in expected.shape)
            fits = array.ndim == len(wanted) and all(
                size == want or want == "any" for size, want in zip(array.shape, wanted)
            )
            if not fits:
                raise BadRequest(f"{name!r} must have shape {wanted}, got {array.shape}")
            if not np.can_cast(array.dtype, kind, casting="same_kind"):
                raise BadRequest(f"{name!r} must be {kind.__name__}, got {array.dtype}")
            checked[name] = array.astype(kind)
        counts = {name: len(array) for name, array in checked.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise BadRequest(f"every input needs the same number of rows (>= 1), got {counts}")
        return checked

    def example(self, request: dict[str, Any], content_type: str) -> Any:
        """One request of TorchServe's to one example: JSON, then :meth:`preprocess`."""
        return self.preprocess(_parse(request))

    def predict(self, examples: list[Any]) -> list[Any]:
        """One run for all examples [n]; an answer for each [n]."""
        outputs = run(self.session, self.collate(examples))
        ends = np.cumsum([self.rows(example) for example in examples])
        return [
            self.postprocess({name: array[first:last] for name, array in outputs.items()})
            for first, last in zip([0, *ends[:-1]], ends)
        ]

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        """What TorchServe calls with a batch: one answer a request, in order."""

        def parse(index: int) -> Any:
            part = context.get_request_header(index, "body") or {}
            return self.example(data[index], part.get("content-type", ""))

        outcomes = answer_batch(range(len(data)), parse, self.predict)
        return [self.reply(outcome, index, context) for index, outcome in enumerate(outcomes)]

    def reply(self, outcome: Outcome, index: int, context: Any) -> Any:
        """The body of one answer; status and headers go to ``context``."""
        if outcome.status == 200:
            return outcome.body
        if outcome.error:
            log.error("a request failed by itself", exc_info=outcome.error)
        status = outcome.status
        context.set_response_status(status, PHRASES.get(status, "Internal Server Error"), index)
        request_id = context.get_request_id(index) or ""
        content = {"code": status, "message": outcome.body, "request_id": request_id}
        return {"error": content}


def _parse(request: dict[str, Any]) -> Any:
    """The JSON of one request. TorchServe parses it, or leaves bytes when it could not."""
    body = request.get("body", request.get("data"))
    if isinstance(body, (bytes, bytearray, str)):
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {str(error)[:200]}") from error
    return body


def _pad_and_join(arrays: list[NDArray[Any]], value: float) -> NDArray[Any]:
    if len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    longest = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    padded = [
        np.pad(
            array,
            [(0, 0), *((0, int(size)) for size in longest - array.shape[1:])],
            constant_values=value,
        )
        for array in arrays
    ]
    return np.concatenate(padded)
