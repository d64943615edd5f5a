"""The export stage: models in ONNX, the student in each precision, and what its gates say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from capstone import measure
from capstone.context import BUNDLES, PRECISIONS, Context
from capstone.model_stages import TEST_CANDIDATES, VALIDATION_CANDIDATES
from capstone.models import EncodeUser, RankCandidates
from capstone.value import HEADS, ValueWeights
from common.results import write_json

if TYPE_CHECKING:
    from capstone.quality import Exam, Quality


def export(c: Context) -> None:
    """ONNX; the student in INT8 and fp16 (lab 4); the gates of what is served, and of INT8."""
    from capstone import bundle, gates, student

    trained, distilled = c.workspace.need("train"), c.workspace.need("distill")
    retrieved, weights = c.workspace.need("retrieval"), c.weights()
    served = student.served_precision(c.config.served, c.run.device)
    with c.workspace.stage("export", "train", "retrieval", "distill") as folder:
        _export_encoder(c, folder)
        rankers = (
            ("teacher", trained / "teacher.safetensors"),
            ("student", distilled / "student.safetensors"),
        )
        worst = max(_export_ranker(c, folder, name, path) for name, path in rankers)
        c.run.metric("export.max_abs_error", worst, unit="probability", n=64)
        fp32, int8, fp16 = (folder / student.FILES[name] for name in ("fp32", "int8", "fp16"))
        student.quantize_student(
            fp32, int8,
            student.calibration_inputs(
                c.feed, np.load(retrieved / VALIDATION_CANDIDATES),
                length=c.config.max_length, seed=c.run.seed,
            ),
        )  # fmt: skip
        student.halve_student(fp32, fp16)
        ratio = fp32.stat().st_size / int8.stat().st_size
        c.run.metric("int8.size_ratio", ratio, unit="ratio")
        shutil.copy2(folder / "teacher.onnx", folder / "reference.onnx")
        shutil.copy2(folder / student.FILES[served], folder / "champion.onnx")
        write_json(folder / PRECISIONS, {"reference": "fp32", "champion": served})
        judged = {}
        for name in BUNDLES:
            exam = _examined(c, folder / f"{name}.onnx", c.run.device)
            _write_exam(exam, folder, name, weights)
            judged[name] = exam.quality
        reference = judged["reference"]
        for name, each in judged.items():
            verdict = gates.judge(each.metrics(reference), reference.metrics())
            of = bundle.judged_parts(c.judged_parts(folder, name), weights)
            gates.write_verdict(verdict, folder / f"{name}.quality.json", of)
            _record_quality(c, name, each, reference)
        judged["int8"] = (
            judged["champion"] if served == "int8" else _examined(c, int8, "cpu").quality
        )
        _record_retention(c, "student", judged["champion"], reference, f"the student in {served}")
        _record_retention(c, "int8", judged["int8"], reference, "the student in INT8")
        failed = gates.judge(judged["int8"].metrics(reference), reference.metrics()).failed
        c.run.metric(
            "int8.gates_failed", len(failed), unit="count",
            how=", ".join(failed) or "INT8 passed them all, whatever is served",
        )  # fmt: skip
    exported = c.workspace.need("export")
    _record_company(c, "int8", exported / student.FILES["int8"], "cpu")
    _record_company(c, "student", exported / "champion.onnx", c.run.device)


def _examined(c: Context, ranker: Path, device: str) -> Exam:
    """A ranker's exam on the device that it is served on, one user a call on a CPU."""
    from capstone import quality
    from labs.lab4_model_serving.export import session

    retrieved = c.workspace.need("retrieval")
    return quality.examine(
        measure.onnx_score(session(ranker, device=device)), c.feed,
        np.load(retrieved / VALIDATION_CANDIDATES), np.load(retrieved / TEST_CANDIDATES),
        c.weights(), length=c.config.max_length, batch=16 if device == "cuda" else 1,
    )  # fmt: skip


def _write_exam(exam: Exam, folder: Path, name: str, weights: ValueWeights) -> None:
    """Calibration, values of all candidates, and the scores that drift is measured against."""
    from capstone import calibration, drift

    calibration.save(folder / f"{name}.calibration.json", exam.maps)
    validation, test = exam.values(weights)
    np.savez(folder / f"{name}.values.npz", validation=validation, test=test)
    first = test.argmax(axis=1)[:, None]
    tops = {
        head: np.take_along_axis(p, first, axis=1)[:, 0]
        for head, p in calibration.calibrated(exam.maps, exam.test.scores).items()
    }
    drift.save_references(
        {head: drift.reference_of(p) for head, p in tops.items()},
        folder / f"{name}.references.json",
    )


def _record_retention(c: Context, name: str, found: Quality, reference: Quality, who: str) -> None:
    kept, interval = measure.ratio_of_means(
        found.ndcg, reference.ndcg, n_boot=c.config.n_boot, seed=c.run.seed
    )
    c.run.metric(
        f"{name}.ndcg_retention", kept, unit="ratio", n=c.feed.n_users, ci95=interval,
        how=f"{who} over the teacher in fp32, both as served; paired bootstrap",
    )  # fmt: skip
    c.run.metric(
        f"{name}.auc_retention", found.auc / reference.auc, unit="ratio", n=c.feed.n_users,
        how=f"{who}; AUC of P(rating >= 4) of the item that came next",
    )  # fmt: skip


def _record_company(c: Context, name: str, ranker: Path, device: str) -> None:
    from labs.lab4_model_serving.export import session

    history, ratings = c.test_histories
    score = measure.onnx_score(session(ranker, device=device))
    c.run.metric(
        f"{name}.batch_dependence",
        measure.batch_dependence(score, history[:32], ratings[:32], c.candidates()[:32]),
        unit="probability", n=32,
        how=f"largest change seen of a score between batch sizes 1 and 32, over 32 users; {device}",
    )  # fmt: skip


def _export_encoder(c: Context, folder: Path) -> None:
    import torch

    from labs.lab4_model_serving.export import export_onnx

    example = {"history": torch.from_numpy(c.test_histories[0][:4])}
    export_onnx(
        EncodeUser(c.encoder()), example, folder / "encoder.onnx",
        output_names=["query"], dynamic={"history": {0: "batch"}},
    )  # fmt: skip


def _export_ranker(c: Context, folder: Path, name: str, path: Path) -> float:
    """Write ``<name>.onnx``; the largest difference from the model it was made from."""
    import torch

    from labs.lab4_model_serving.export import export_onnx, parity, require_parity, run, session

    retrieved, (history, ratings) = c.candidates(), c.test_histories
    inputs = {"history": history[:64], "ratings": ratings[:64], "candidates": retrieved[:64]}
    example = {key: torch.from_numpy(value[:4]) for key, value in inputs.items()}
    axes = {key: {0: "batch"} for key in inputs} | {"candidates": {0: "batch", 1: "candidates"}}
    served = RankCandidates(c.ranker(path, name)).eval()
    names = [f"p_{head}" for head in HEADS]
    target = folder / f"{name}.onnx"
    export_onnx(served, example, target, output_names=names, dynamic=axes)
    with torch.no_grad():
        outputs = served(*(torch.from_numpy(value) for value in inputs.values()))
    reference = {key: value.numpy() for key, value in zip(names, outputs, strict=True)}
    difference = parity(reference, run(session(target), inputs))
    require_parity(difference, max_abs_error=1e-4)
    return difference.max_abs_error


def _record_quality(c: Context, name: str, found: Quality, reference: Quality) -> None:
    c.mean(f"{name}.ndcg_at_10", found.ndcg, how="by value, as served; before re-ranking")
    for metric, value in found.metrics(reference).items():
        if metric != "ndcg_at_10":
            c.run.metric(f"{name}.{metric}", value, unit="ratio", n=c.feed.n_users)
