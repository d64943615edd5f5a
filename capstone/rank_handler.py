"""The TorchServe handler of the ranker: binary bodies of one or more users in and out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from capstone import score_codec
from labs.lab4_model_serving import export, onnx_handler

MANIFEST = "manifest.json"
"""Of the bundle, which lies in the archive beside its ranker."""
GPU_USERS = (1, 2, 4, 8, 16)
"""Users of one run on a GPU. A shape that it has not seen yet costs it a plan of its memory and a
choice of kernels, so there are few: a run is filled up to one of these, and the handler has run
each of them before the worker counts as ready."""
CPU_USERS = 4
"""Users of one run on a CPU at most, where filling up would be work. In groups of four the student
took three quarters of the time a user that it took alone; larger ones gained nothing more."""


class RankHandler(onnx_handler.OnnxHandler):
    """Scores the users of a body together, as many as make one run of the model cheaper.

    No score depends on who else is in the run, beyond rounding: the scales of a static INT8 model
    are constants of the model, and in fp32 and fp16 there are none. A *dynamically* quantised model
    takes one scale for all activations of a run, and would have to be asked for one user at a time.
    """

    def setup(self) -> None:
        """Sizes of the model and of its runs, and a first run of each, which is slow."""
        self.length = int(self.inputs["history"].shape[1])
        manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        on_gpu = self.session.get_providers()[0] != "CPUExecutionProvider"
        self.sizes = GPU_USERS if on_gpu else tuple(range(1, CPU_USERS + 1))
        self.width = int(manifest["candidates"]) if on_gpu else 0
        one = np.ones(1, dtype=np.int64)
        for size in self.sizes:
            self.score([score_codec.ScoreRequest(one, one, one)] * size)

    def example(self, request: dict[str, Any], content_type: str) -> list[score_codec.ScoreRequest]:
        """The users of one body, checked."""
        body = request.get("body", request.get("data", b""))
        try:
            return score_codec.decode(bytes(body))
        except (score_codec.Malformed, TypeError) as error:
            raise onnx_handler.BadRequest(str(error)) from error

    def predict(self, examples: list[list[score_codec.ScoreRequest]]) -> list[bytes]:
        """Encoded answers of bodies [n]."""
        return [score_codec.encode_scores(self.score(users)) for users in examples]

    def score(self, users: list[score_codec.ScoreRequest]) -> list[dict[str, np.ndarray]]:
        """Probabilities of each user's candidates, head to [C]."""
        found: list[dict[str, np.ndarray]] = []
        most = self.sizes[-1]
        for at in range(0, len(users), most):
            group = users[at : at + most]
            rows = next(size for size in self.sizes if size >= len(group))
            inputs = score_codec.padded(group, self.length, rows=rows, width=self.width)
            counts = [len(user.candidates) for user in group]
            found += score_codec.rows_of(export.run(self.session, inputs), counts)
        return found
