"""The TorchServe handler of the ranker: binary bodies of one or more users in and out."""

from __future__ import annotations

from typing import Any

import numpy as np

from capstone import score_codec
from labs.lab4_model_serving import export, onnx_handler


class RankHandler(onnx_handler.OnnxHandler):
    """Scores the users of a batch one after the other, so that none depends on another.

    A dynamically quantised model takes one scale for all activations of a run, so the score of a
    user would change with who is in the batch; and at one user a run is a matrix product already.
    """

    def setup(self) -> None:
        """Sizes of the model, and a first run, which is slow."""
        self.length = int(self.inputs["history"].shape[1])
        one = np.ones(1, dtype=np.int64)
        self.predict([[score_codec.ScoreRequest(one, one, one)]])

    def example(self, request: dict[str, Any], content_type: str) -> list[score_codec.ScoreRequest]:
        """The users of one body, checked."""
        body = request.get("body", request.get("data", b""))
        try:
            return score_codec.decode(bytes(body))
        except (score_codec.Malformed, TypeError) as error:
            raise onnx_handler.BadRequest(str(error)) from error

    def predict(self, examples: list[list[score_codec.ScoreRequest]]) -> list[bytes]:
        """Encoded answers of bodies [n]."""
        return [
            score_codec.encode_scores([self.score(user) for user in users]) for users in examples
        ]

    def score(self, user: score_codec.ScoreRequest) -> dict[str, np.ndarray]:
        """Probabilities of each head, [C]."""
        inputs = score_codec.padded(user, self.length)
        return score_codec.by_head(export.run(self.session, inputs))
