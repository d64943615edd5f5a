"""The handler of the lab's classifier: the bundle behind TorchServe, ``{"text": "..."}`` in."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from labs.lab4_model_serving import length_runs, onnx_handler, predictor, protocol, worker_io


class TextHandler(onnx_handler.OnnxHandler):
    """Serves the bundle whose four files lie in its archive.

    The texts of a batch are tokenized in one call, and run in groups of like length: one run would
    compute on as much padding as the longest text of the batch demands.
    """

    def initialize(self, context: Any) -> None:
        """Called once in every worker, before it counts as ready.

        Raises
        ------
        InputError
            The archive holds no whole bundle.
        """
        worker_io.tune()
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        self.predictor = predictor.Predictor(
            pathlib.Path(properties["model_dir"]),
            device="cpu" if gpu is None else "cuda",
            device_id=int(gpu or 0),
            threads=self.threads,
        )
        self.limits = protocol.Limits()
        self.predictor.predict(["the first run is slow: not at a user's expense"])

    def example(self, request: dict[str, Any], content_type: str) -> str:
        """The text of one request, checked."""
        body = request.get("body", request.get("data", b""))
        if not isinstance(body, (bytes, bytearray)):
            # Without TS_DECODE_INPUT_REQUEST=false the worker has parsed it already.
            body = json.dumps(body).encode()
        try:
            return protocol.text_of(body, content_type, self.limits)
        except protocol.HttpError as error:
            raise onnx_handler.BadRequest(error.message, error.status) from error

    def predict(self, examples: list[str]) -> list[bytes]:
        """Encoded answers of texts [n]."""
        found = length_runs.predict_in_runs(self.predictor, examples)
        return [protocol.answer_body(answer, self.predictor.version) for answer in found]

    def reply(self, outcome: onnx_handler.Outcome, index: int, context: Any) -> Any:
        """Adds the header that says which version answered."""
        context.set_response_header(index, "X-Model-Version", self.predictor.version)
        context.set_response_header(index, "content-type", protocol.JSON)
        return super().reply(outcome, index, context)
