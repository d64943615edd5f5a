"""float16: what a client sees stays as it was, and a GPU answers as the CPU does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from labs.lab4_model_serving.bundle import Bundle
from labs.lab4_model_serving.export import session
from labs.lab4_model_serving.half_precision import half_precision
from labs.lab4_model_serving.ort_options import SessionSettings
from labs.lab4_model_serving.ort_profile import profile_model
from labs.lab4_model_serving.predictor import Predictor
from labs.lab4_model_serving.tokens import pad

TEXTS = ["what is on my calendar", "set an alarm", "how much money have i", "word"]


def test_half_precision_keeps_types_and_answers(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """A client sees float32 as before, the same label, and logits to a few thousandths."""
    half_precision(tiny_bundle.model, tmp_path / "half.onnx")
    whole, half = session(tiny_bundle.model), session(tmp_path / "half.onnx")
    inputs = pad(Predictor(tiny_bundle).encode(TEXTS))
    (expected,), (found,) = (each.run(["logits"], inputs) for each in (whole, half))
    assert found.dtype == expected.dtype == np.float32
    assert (tmp_path / "half.onnx").stat().st_size < 0.75 * tiny_bundle.model.stat().st_size
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    """And no file is begun."""
    with pytest.raises(InputError, match=r"no ONNX model at .*none.onnx"):
        half_precision(tmp_path / "none.onnx", tmp_path / "half.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_half_precision_answers_alike_on_the_gpu_and_stays_there(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Equal labels, logits to a few thousandths; and the kernels ran where they were asked to."""
    half = half_precision(tiny_bundle.model, tmp_path / "half.onnx")
    inputs = pad(Predictor(tiny_bundle).encode(TEXTS))
    (expected,), (found,) = (
        session(path, device=device).run(["logits"], inputs)
        for path, device in ((tiny_bundle.model, "cpu"), (half, "cuda"))
    )
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    placed = profile_model(
        half, [inputs] * 3, tmp_path, warmup=1, settings=SessionSettings(device="cuda")
    ).placement
    assert "CUDAExecutionProvider" in placed, placed
