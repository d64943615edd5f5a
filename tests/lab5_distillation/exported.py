"""One tiny classifier and its ONNX files, exported once for all tests that look at them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from tests.lab5_distillation.conftest import tiny_classifier


@cache
def model():
    """A random classifier with one layer, copied from another: do not change it."""
    from labs.lab5_distillation.students import by_depth

    return by_depth(tiny_classifier(2, attention="sdpa"), [1])


@cache
def _content(fused: bool) -> bytes:
    from labs.lab5_distillation.onnx_export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        return export_onnx(model(), Path(folder) / "model.onnx", fused=fused).read_bytes()


def exported(folder: Path, *, fused: bool) -> Path:
    """The file of `model`, in a folder of the test's own."""
    path = folder / f"{'fused' if fused else 'plain'}.onnx"
    path.write_bytes(_content(fused))
    return path
