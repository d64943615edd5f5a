"""One trained model in every form that can be served, ready for the parity report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from labs.lab4_model_serving import torchscript
from labs.lab4_model_serving.classifier import INPUTS
from labs.lab4_model_serving.export import export_program, load_program, run_program
from labs.lab4_model_serving.fusion import fuse
from labs.lab4_model_serving.ort_options import SessionSettings, open_session
from labs.lab4_model_serving.parity_report import Artefact, Limits, Predict

if TYPE_CHECKING:
    import torch

    from labs.lab4_model_serving.encoder import TextClassifier


def build_artefacts(model: TextClassifier, onnx: Path, folder: Path) -> list[Artefact]:
    """Write ``model`` in each form, read each back, and describe it.

    Parameters
    ----------
    onnx
        The model's export, of :func:`classifier.export`.
    folder
        Gets ``traced.pt``, ``scripted.pt``, ``frozen.pt``, ``program.pt2`` and ``fused.onnx``.

    Returns
    -------
    list of Artefact
        eager, traced, scripted, frozen, torch.export, ONNX, ONNX fused; quantized ones are added
        with :func:`onnx_artefact`.
    """
    import torch

    example = {name: torch.ones(2, 8, dtype=torch.int64) for name in INPUTS}
    scripted = torchscript.script(model)
    modules = {
        "traced": torchscript.trace(model, list(example.values())),
        "scripted": scripted,
        "frozen": torchscript.freeze(scripted),
    }
    found = [Artefact("eager", torch_predict(model.eval()))]
    for name, module in modules.items():
        path = torchscript.save(module, folder / f"{name}.pt")
        found.append(Artefact(name, torch_predict(torchscript.load(path)), path))
    program = folder / "program.pt2"
    export_program(
        model,
        example,
        program,
        dynamic={name: {0: "batch", 1: "tokens"} for name in INPUTS},
        longest={"tokens": model.positions.num_embeddings},
    )
    found.append(Artefact("torch.export", torch_predict(load_program(program).module()), program))
    found.append(onnx_artefact("ONNX", onnx))
    fused = folder / "fused.onnx"
    fuse(onnx, fused, heads=model.heads, width=model.words.embedding_dim)
    found.append(onnx_artefact("ONNX fused", fused))
    return found


def onnx_artefact(
    name: str, path: Path, limits: Limits | None = None, *, device: str = "cpu"
) -> Artefact:
    """An ONNX file as an artefact; for INT8 and float16 hand over ``parity_report.QUANTIZED``."""
    session = open_session(path, SessionSettings(device=device))
    return Artefact(
        name, lambda inputs: session.run(None, dict(inputs))[0], path, limits or Limits()
    )


def torch_predict(module: torch.nn.Module, *, device: str = "cpu") -> Predict:
    """A module as an artefact's function; ``device`` is where its weights are."""
    return lambda inputs: run_program(module, inputs, device=device)
