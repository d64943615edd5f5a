"""Static INT8 of a ranker: small, near the original, and the same in any company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from capstone import measure, student
from capstone.data import Feed
from capstone.models import RankCandidates, Ranker
from capstone.value import HEADS
from common.errors import InputError
from labs.lab4_model_serving.export import export_onnx, session
from labs.lab4_model_serving.quantization import quantize_int8

LENGTH = 16


@pytest.fixture(scope="module")
def inputs(feed: Feed) -> list[student.Inputs]:
    candidates = np.tile(np.arange(1, 41), (feed.n_users, 1))
    return student.calibration_inputs(feed, candidates, length=LENGTH, users=48)


@pytest.fixture(scope="module")
def fp32(
    feed: Feed, inputs: list[student.Inputs], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A ranker with random weights, scaled up to the size of trained ones."""
    torch.manual_seed(0)
    ranker = Ranker(torch.from_numpy(feed.genres), 32, LENGTH, layers=1)
    with torch.no_grad():
        ranker.items.weight.mul_(3)
    example = {name: torch.from_numpy(value[:4]) for name, value in inputs[0].items()}
    axes = {name: {0: "batch"} for name in example} | {"candidates": {0: "batch", 1: "candidates"}}
    return export_onnx(
        RankCandidates(ranker).eval(), example, tmp_path_factory.mktemp("student") / "fp32.onnx",
        output_names=list(RankCandidates.outputs), dynamic=axes,
    )  # fmt: skip


def test_calibration_never_reads_a_held_out_interaction(
    feed: Feed, inputs: list[student.Inputs]
) -> None:
    """Ranges fitted on the exam would be a small leak, and a needless one."""
    chosen = np.random.default_rng(0).permutation(feed.n_users)[:48]
    rows = np.concatenate([part["history"] for part in inputs])
    for row, user in zip(rows, chosen, strict=True):
        assert not np.isin(feed.sequences[user].items[-2:], row).any(), f"user {user}"


def test_a_score_of_the_static_student_does_not_depend_on_company(
    fp32: Path, inputs: list[student.Inputs], tmp_path: Path
) -> None:
    """Dynamic INT8 of the same model does depend on it, so the test can fail."""
    given = inputs[0]
    changes = {}
    for name, path in (
        ("static", student.quantize_student(fp32, tmp_path / "static.onnx", inputs)),
        ("dynamic", quantize_int8(fp32, tmp_path / "dynamic.onnx")),
    ):
        score = measure.onnx_score(session(path, threads=1))
        changes[name] = measure.batch_dependence(
            score, given["history"], given["ratings"], given["candidates"]
        )
    assert changes["static"] < 1e-6 < changes["dynamic"], changes


def test_the_static_student_is_smaller_and_near_the_original(
    fp32: Path, inputs: list[student.Inputs], tmp_path: Path
) -> None:
    static = student.quantize_student(fp32, tmp_path / "static.onnx", inputs)
    assert static.stat().st_size < 0.5 * fp32.stat().st_size
    exact, rounded = (measure.onnx_score(session(path, threads=1)) for path in (fp32, static))
    given = (inputs[1]["history"], inputs[1]["ratings"], inputs[1]["candidates"])
    before, after = exact(*given), rounded(*given)
    for head in HEADS:
        correlation = np.corrcoef(before[head].ravel(), after[head].ravel())[0, 1]
        assert correlation > 0.98, f"{head}: correlation {correlation:.3f}"


def test_more_users_than_there_are_is_refused(feed: Feed) -> None:
    with pytest.raises(InputError, match="users = 5000"):
        student.calibration_inputs(feed, np.ones((943, 4), np.int64), length=LENGTH, users=5000)
