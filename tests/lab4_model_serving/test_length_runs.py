"""A batch as runs of like length: how many, how long, and in whose order the answers come."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from labs.lab4_model_serving.length_runs import predict_in_runs


class Recorder:
    """A predictor that answers with the text's length and keeps the sizes of its runs."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.runs: list[list[int]] = []

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[1] * len(text) for text in texts]

    def predict_ids(self, ids: Sequence[Sequence[int]]) -> list[int]:
        self.runs.append([len(row) for row in ids])
        return self.runs[-1]


@pytest.mark.parametrize(("device", "runs"), [("cpu", 4), ("cuda", 1)])
def test_a_batch_is_cut_on_a_cpu_and_stays_whole_on_a_gpu(device: str, runs: int) -> None:
    """Padding costs a CPU its cores; a run costs a GPU its start. The order is the caller's."""
    texts = ["x" * (1 + 7 * i % 30) for i in range(64)]
    predictor = Recorder(device)
    assert predict_in_runs(predictor, texts) == [len(text) for text in texts]  # type: ignore[arg-type, comparison-overlap]
    assert len(predictor.runs) == runs
    assert all(run == sorted(run) for run in predictor.runs)
