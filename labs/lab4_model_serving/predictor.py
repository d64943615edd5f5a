"""Texts in, labels out: the one piece of code that runs a bundle, behind every server.

A server hands over the texts of a batch. What can be done once for all of them (tokens, the run,
the softmax) is done once; the device is a setting, not another program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labs.lab4_model_serving.bundle import Bundle, read_bundle
from labs.lab4_model_serving.export import session
from labs.lab4_model_serving.tokens import Tokens, pad


@dataclass(frozen=True)
class Answer:
    """The most likely label and its softmax probability."""

    label: str
    probability: float


class Predictor:
    """A bundle, open for inference.

    Parameters
    ----------
    bundle
        A bundle or its folder.
    device
        ``"cpu"`` or ``"cuda"``.
    threads
        Intra-op threads of ONNX Runtime.
    device_id
        Which of the GPUs.

    Raises
    ------
    InputError
        A broken bundle, or a device that is not there.
    """

    def __init__(
        self, bundle: Bundle | Path, *, device: str = "cpu", threads: int = 1, device_id: int = 0
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        self.tokens = Tokens(self.bundle.tokenizer, self.bundle.max_tokens)
        self.device = device
        self.session = session(
            self.bundle.model, threads=threads, device=device, device_id=device_id
        )

    @property
    def version(self) -> str:
        return self.bundle.version

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text: what a batcher sorts by length."""
        return self.tokens.ids(texts)

    def logits(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Logits [n, classes] of rows of token ids, as one padded batch."""
        found: NDArray[np.float32] = self.session.run(["logits"], pad(ids))[0]
        return found

    def answers(self, logits: NDArray[np.float32]) -> list[Answer]:
        """Each row's most likely label, with the softmax over the row."""
        best = logits.argmax(axis=1)
        highest = logits[np.arange(len(logits)), best]
        probability = 1 / np.exp(logits - highest[:, None], dtype=np.float64).sum(axis=1)
        labels = self.bundle.labels
        return [Answer(labels[i], float(p)) for i, p in zip(best, probability, strict=True)]

    def predict_ids(self, ids: Sequence[Sequence[int]]) -> list[Answer]:
        """Answers for rows of token ids, run as one batch."""
        return self.answers(self.logits(ids))

    def predict(self, texts: Sequence[str]) -> list[Answer]:
        """Answers for texts, run as one batch; at least one text."""
        return self.predict_ids(self.encode(texts))
