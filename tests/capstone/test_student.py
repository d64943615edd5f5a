"""The student as it is served: near the original, and the same in any company."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from capstone import measure, score_codec, student
from capstone.config import SCALES
from capstone.context import PRECISIONS, Context
from capstone.data import Feed
from capstone.models import RankCandidates, Ranker
from capstone.score_codec import ScoreRequest
from capstone.value import HEADS
from capstone.workspace import Workspace
from common.errors import InputError
from labs.lab4_model_serving.export import export_onnx, run, session
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


@pytest.fixture(scope="module")
def files(
    fp32: Path, inputs: list[student.Inputs], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The same student in each precision."""
    folder = tmp_path_factory.mktemp("precisions")
    return {
        "fp32": fp32,
        "int8": student.quantize_student(fp32, folder / "int8.onnx", inputs),
        "fp16": student.halve_student(fp32, folder / "fp16.onnx"),
    }


@pytest.mark.parametrize("precision", student.FILES)
def test_padding_of_users_and_candidates_changes_no_score(
    files: dict[str, Path], inputs: list[student.Inputs], precision: str
) -> None:
    """A run on a GPU is filled up to a size that it knows; what fills it must not be seen."""
    opened, given = session(files[precision], threads=1), inputs[0]
    users = []
    for row in range(5):
        length = (3, LENGTH, 0, 9, 1)[row]
        items, ratings = (given[name][row][LENGTH - length :] for name in ("history", "ratings"))
        users.append(ScoreRequest(items, ratings, given["candidates"][row][: 40 - 6 * row]))
    counts = [len(user.candidates) for user in users]
    filled = score_codec.padded(users, LENGTH, rows=8, width=64)
    assert filled["candidates"].shape == (8, 64)
    together = score_codec.rows_of(run(opened, filled), counts)
    for user, scores in zip(users, together, strict=True):
        one = run(opened, score_codec.padded([user], LENGTH))
        (alone,) = score_codec.rows_of(one, [len(user.candidates)])
        for head in HEADS:
            worst = float(np.abs(scores[head] - alone[head]).max())
            assert worst < (1e-3 if precision == "fp16" else 1e-6), f"{head}: {worst:.2g}"


def test_half_precision_keeps_types_order_and_size(
    files: dict[str, Path], inputs: list[student.Inputs]
) -> None:
    """Callers see no difference but rounding, and half of the bytes."""
    exact, half = (session(files[name], threads=1) for name in ("fp32", "fp16"))
    for side in ("get_inputs", "get_outputs"):
        found = [[(each.name, each.type) for each in getattr(s, side)()] for s in (exact, half)]
        assert found[0] == found[1]
    before, after = run(exact, inputs[1]), run(half, inputs[1])
    for name, p in before.items():
        assert np.corrcoef(p.ravel(), after[name].ravel())[0, 1] > 0.9999, name
    assert files["fp16"].stat().st_size < 0.6 * files["fp32"].stat().st_size


def test_each_device_gets_what_it_has_kernels_for() -> None:
    """Unless told otherwise: INT8 on a CPU; on a GPU, which has no kernels for it, fp32."""
    assert student.served_precision("auto", "cpu") == "int8"
    assert student.served_precision("auto", "cuda") == "fp32"
    assert student.served_precision("fp16", "cpu") == "fp16"


def test_a_precision_that_was_not_exported_is_refused(tmp_path: Path) -> None:
    """The gates have judged another model than the one that is asked for."""

    def context(served: str) -> Context:
        config = replace(SCALES["smoke"], served=served)  # type: ignore[arg-type]
        workspace = Workspace(tmp_path, "smoke", 0, False, config)
        return Context(SimpleNamespace(device="cpu"), config, workspace)  # type: ignore[arg-type]

    with context("auto").workspace.stage("export") as folder:
        (folder / PRECISIONS).write_text(json.dumps({"reference": "fp32", "champion": "fp16"}))
    for served in ("auto", "fp16"):
        assert context(served).precision("champion") == "fp16"
    with pytest.raises(InputError, match=r"--served int8: .* served in fp16; run --stages export"):
        context("int8").precision("champion")
