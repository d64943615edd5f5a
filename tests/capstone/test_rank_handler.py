"""What a TorchServe worker makes of a body: users share a run, and none is changed by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from capstone import score_codec
from capstone.rank_handler import CPU_USERS, GPU_USERS, RankHandler
from capstone.score_codec import ScoreRequest
from labs.lab4_model_serving.export import session
from tests.capstone import tiny_bundle

CUDA = "CUDAExecutionProvider"


class Recorded:
    """A session that runs on the CPU, says what it is told to say, and keeps the shapes it saw."""

    def __init__(self, opened: ort.InferenceSession, provider: str) -> None:
        self.opened, self.provider = opened, provider
        self.shapes: list[tuple[int, int]] = []

    def get_providers(self) -> list[str]:
        return [self.provider]

    def get_outputs(self) -> Any:
        return self.opened.get_outputs()

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> Any:
        self.shapes.append(inputs["candidates"].shape)
        return self.opened.run(names, inputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a worker finds: the model and the manifest of its bundle."""
    return tiny_bundle.build(tmp_path_factory.mktemp("archive") / "bundle").folder


def handler_on(folder: Path, provider: str) -> RankHandler:
    made = RankHandler()
    made.folder = folder
    opened = session(folder / "ranker.onnx")
    made.session = Recorded(opened, provider)
    made.inputs = {value.name: value for value in opened.get_inputs()}
    made.setup()
    return made


def people(n: int) -> list[ScoreRequest]:
    """Histories and candidate lists of different lengths, an empty history among them."""
    rng = np.random.default_rng(n)
    most = tiny_bundle.CANDIDATES
    return [
        ScoreRequest(
            rng.integers(1, 60, user % 15), rng.integers(1, 6, user % 15),
            rng.permutation(np.arange(1, 60))[: most - user % 7],
        )
        for user in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("provider", ["CPUExecutionProvider", CUDA])
@pytest.mark.parametrize("n", [1, 3, 4, 9, 20])
def test_company_and_padding_change_nobodys_scores(folder: Path, provider: str, n: int) -> None:
    """Who else asks in the same millisecond must not decide what a person is shown."""
    handler, users = handler_on(folder, provider), people(n)
    body = {"body": bytearray(score_codec.encode(users))}
    (answer,) = handler.predict([handler.example(body, score_codec.CONTENT_TYPE)])
    together = score_codec.decode_scores(answer, [len(user.candidates) for user in users])
    for number, (user, scores) in enumerate(zip(users, together, strict=True)):
        (alone,) = handler.score([user])
        for head, expected in alone.items():
            np.testing.assert_allclose(scores[head], expected, atol=1e-6, err_msg=f"user {number}")


def test_a_gpu_meets_no_shape_that_it_has_not_run_before(folder: Path) -> None:
    """A new shape costs it a plan and a choice of kernels: in the middle of somebody's feed."""
    handler = handler_on(folder, CUDA)
    warm = set(handler.session.shapes)
    assert warm == {(size, tiny_bundle.CANDIDATES) for size in GPU_USERS}
    for n in range(1, 2 * GPU_USERS[-1]):
        handler.score(people(n))
    assert set(handler.session.shapes) == warm


def test_a_cpu_fills_nothing_up(folder: Path) -> None:
    """There a padded row is work like any other: groups of a few users, as they come."""
    handler = handler_on(folder, "CPUExecutionProvider")
    handler.session.shapes.clear()
    users = people(CPU_USERS + 3)
    handler.score(users)
    longest = [max(len(user.candidates) for user in part) for part in (users[:4], users[4:])]
    assert handler.session.shapes == [(CPU_USERS, longest[0]), (3, longest[1])]


def test_a_list_longer_than_the_bundles_is_scored_too(folder: Path) -> None:
    (scores,) = handler_on(folder, CUDA).score(
        [ScoreRequest(np.array([1]), np.array([5]), np.arange(1, 60))]
    )
    assert scores["engage"].shape == (59,)
