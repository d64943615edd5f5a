"""Fusions: what matched, what did not, and that the answers stay."""

import numpy as np
import onnx
import pytest
import torch

from common.errors import InputError, RunError
from labs.lab4_model_serving.artefacts import build_artefacts, onnx_artefact
from labs.lab4_model_serving.classifier import export
from labs.lab4_model_serving.encoder import TextClassifier
from labs.lab4_model_serving.export import run_program, session
from labs.lab4_model_serving.fusion import fuse, split_unsqueeze
from labs.lab4_model_serving.ort_options import optimized_graphs
from labs.lab4_model_serving.parity_report import (
    Limits,
    parity_report,
    require_report,
    shape_cases,
)
from labs.lab4_model_serving.quantization import quantize_int8

SIZE = {"heads": 4, "width": 32}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TextClassifier(
        classes=6, vocabulary=500, inner=64, layers=2, positions=64, **SIZE
    ).eval()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="module")
def fused(exported):
    path = exported.with_name("fused.onnx")
    return path, fuse(exported, path, **SIZE)


def run(path, inputs):
    return session(path).run(None, dict(inputs))[0]


def test_each_layers_attention_norms_and_gelu_are_fused(fused):
    _, report = fused
    assert report.matched == {
        "Attention": 2,
        "SkipLayerNormalization": 4,
        "BiasGelu": 2,
        "EmbedLayerNormalization": 0,
    }
    assert report.unmatched == ["EmbedLayerNormalization"]
    before, after = report.nodes
    assert after < before / 2


def test_without_the_preparation_no_attention_matches_and_nothing_is_said(exported, tmp_path):
    """One merged Unsqueeze in the mask's path, and the pattern of the attention does not fit."""
    report = fuse(exported, tmp_path / "f.onnx", prepare=False, **SIZE)
    assert report.matched["Attention"] == 0
    assert report.matched["SkipLayerNormalization"] == 4


def test_a_session_fuses_norms_and_gelu_by_itself_but_no_attention(exported):
    graphs = {each.level: each.operators for each in optimized_graphs(exported)}
    assert "BiasGelu" not in graphs["basic"]
    assert (graphs["all"]["BiasGelu"], graphs["all"]["SkipLayerNormalization"]) == (2, 4)
    assert "Attention" not in graphs["all"]


def test_splitting_changes_no_answer(exported, tmp_path):
    graph = onnx.load(exported)
    assert split_unsqueeze(graph) == 1
    assert split_unsqueeze(graph) == 0
    onnx.checker.check_model(graph)
    onnx.save(graph, tmp_path / "split.onnx")
    given = shape_cases(500)["ragged"]
    np.testing.assert_array_equal(run(tmp_path / "split.onnx", given), run(exported, given))


def test_a_mask_that_counts_tokens_is_right_only_for_padding_at_the_end(exported, tmp_path):
    """The optimizer's default for BERT, and why the gate has a case with padding in front."""
    path = tmp_path / "counts.onnx"
    fuse(exported, path, mask_counts_tokens=True, **SIZE)
    cases = shape_cases(500)
    worst = {name: np.abs(run(path, x) - run(exported, x)).max() for name, x in cases.items()}
    assert worst["ragged, padded further"] < 1e-5
    assert worst["padded in front"] > 1e-3


def test_every_form_of_the_model_passes_the_gate(model, exported, tmp_path):
    """From eager to fused ONNX by their logits; INT8 of the fused one by its decisions."""
    artefacts = build_artefacts(model, exported, tmp_path)
    int8 = quantize_int8(tmp_path / "fused.onnx", tmp_path / "int8.onnx")
    loose = Limits(max_abs_error=0.1, min_agreement=0.8, max_accuracy_loss=None)
    artefacts.append(onnx_artefact("INT8", int8, loose))
    batches = [shape_cases(500, seed=seed)["ragged"] for seed in range(6)]
    labels = np.concatenate([run_program(model, batch).argmax(axis=1) for batch in batches])
    report = parity_report(
        lambda inputs: run_program(model, inputs),
        artefacts,
        cases=shape_cases(500, max_tokens=64),
        batches=batches,
        labels=labels,
    )
    require_report(report)
    names = ["eager", "traced", "scripted", "frozen", "torch.export", "ONNX", "ONNX fused", "INT8"]
    assert [row.name for row in report] == names
    assert {row.name: row.bytes is None for row in report}["eager"]
    assert report[0].max_abs_error == 0 < report[-1].max_abs_error
    assert report[-1].bytes < report[-2].bytes / 2


def test_what_cannot_be_fused_is_refused(tiny_bundle, tmp_path):
    with pytest.raises(RunError, match="no fusion matched"):
        fuse(tiny_bundle.model, tmp_path / "f.onnx", **SIZE)
    with pytest.raises(InputError, match="multiple of 5"):
        fuse(tiny_bundle.model, tmp_path / "f.onnx", heads=5, width=32)
    with pytest.raises(InputError, match="no ONNX model"):
        fuse(tmp_path / "none.onnx", tmp_path / "f.onnx", **SIZE)
    assert list(tmp_path.iterdir()) == []
