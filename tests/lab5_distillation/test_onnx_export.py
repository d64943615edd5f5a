"""A classifier as an ONNX file: the same answers, any batch, and the fusions that make it fast."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import InputError, RunError
from labs.lab5_distillation import onnx_export, recipe, throughput
from labs.lab5_distillation.encoders import clone
from tests.lab5_distillation.exported import exported, model


@pytest.mark.parametrize("fused", [True, False])
def test_onnx_runtime_answers_as_torch_does(fused, tmp_path, tiny_texts):
    """Texts of 4 to 12 tokens in batches of 7: other sizes than the example of the export."""
    path = exported(tmp_path, fused=fused)
    expected = recipe.logits(model(), tiny_texts)
    found = onnx_export.session_logits(path, tiny_texts, batch_size=7)
    assert torch.allclose(found, expected, atol=1e-5), float((found - expected).abs().max())


def test_attention_gelu_and_layer_norms_are_one_node_each(tmp_path):
    """Integer attention exists for the fused node alone; transformers' own mask would leave it
    unrecognised, without a word.
    """
    found = onnx_export.operators(exported(tmp_path, fused=True))
    assert (found["Attention"], found["BiasGelu"], found["SkipLayerNormalization"]) == (1, 1, 2)
    assert found["Softmax"] == 0


def test_padding_changes_no_answer(tmp_path):
    """The additive mask hides padding wherever a longer text is in the batch."""
    opened = onnx_export.session(exported(tmp_path, fused=True))
    ids, mask = np.array([[5, 6, 7, 0, 0]]), np.array([[1, 1, 1, 0, 0]])
    alone = onnx_export.run(opened, ids[:, :3], mask[:, :3])
    assert np.allclose(onnx_export.run(opened, ids, mask), alone, atol=1e-5)


def test_the_attention_of_a_students_copied_layers_is_fused_as_well(tmp_path):
    """A layer that was copied alone has a config of its own; setting the encoder's would leave it
    with another attention, which no fusion recognises.
    """
    encoder = model().encoder
    attention = encoder.encoder.layer[0].attention.self
    assert attention.config is not encoder.config
    assert onnx_export.operators(exported(tmp_path, fused=True))["Attention"] == 1
    assert attention.config._attn_implementation == "sdpa"  # the student itself is left alone


def test_a_file_that_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    """The export is held against torch before the file gets its name."""
    content = exported(tmp_path, fused=False).read_bytes()
    monkeypatch.setattr(
        torch.onnx, "export", lambda model, inputs, path, **_: path.write_bytes(content)
    )
    other = clone(model())
    with torch.no_grad():
        other.head.bias += 0.01
    with pytest.raises(RunError, match=r"differs from torch by 0\.01"):
        onnx_export.export_onnx(other, tmp_path / "other.onnx", fused=False)
    assert [path.name for path in tmp_path.iterdir()] == ["plain.onnx"]


def test_a_session_wants_a_file_and_a_thread(tmp_path):
    """One clear message for each."""
    with pytest.raises(InputError, match="no ONNX model"):
        onnx_export.session(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="threads"):
        onnx_export.session(exported(tmp_path, fused=True), threads=0)


def test_the_size_of_an_export_counts_the_data_beside_it(tmp_path):
    """One function measures sizes: two that differ would compare a graph with a model."""
    (tmp_path / "m.onnx").write_bytes(b"x" * 1000)
    (tmp_path / "m.onnx.data").write_bytes(b"x" * 9000)
    assert onnx_export.size_mb(tmp_path / "m.onnx") == pytest.approx(0.01)
    assert onnx_export.size_mb is throughput.size_mb
