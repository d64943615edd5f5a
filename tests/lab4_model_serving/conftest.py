"""A bundle that is made in a moment: a bag of words with random weights, as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data import load
from labs.lab4_model_serving.bundle import Bundle, write_bundle

LABELS = ("alarm", "balance", "calendar", "definition", "exchange_rate")
VOCABULARY = 30522
BAD_REQUESTS = [
    (b"", {}, "", 400),
    (b"\xff", {}, "", 400),
    (b'{"text": 3}', {}, "", 400),
    (b'{"text": "' + b"x" * 20_000 + b'"}', {}, "", 413),
    (b'{"text": "pay"}', {"content-type": "text/csv"}, "", 415),
    (b'{"text": "pay"}', {}, "9.9", 404),
    (b'{"text": "pay"}', {"Authorization": "Bearer no"}, "", 401),
]
"""Body, headers, version, and the status that every server answers."""


def bag_of_words(path: Path, *, classes: int = len(LABELS), seed: int = 0) -> Path:
    """An ONNX model: logits [batch, classes] are the sum of a random row a real token."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = np.random.default_rng(seed).normal(size=(VOCABULARY, classes)).astype(np.float32)
    axes = ["batch", "tokens"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, axes)
        for name in ("input_ids", "attention_mask")
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["weights"]),
        helper.make_node("Mul", ["rows", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "tokens_axis"], ["logits"], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
        numpy_helper.from_array(np.array([1], np.int64), "tokens_axis"),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(nodes, "bag_of_words", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def make_bundle(folder: Path, *, version: str = "1.0", seed: int = 0) -> Bundle:
    """A bundle "intents" in ``folder / version``; another seed answers otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_bundle(
        folder / version,
        name="intents",
        version=version,
        model=bag_of_words(folder / f"{version}.onnx", seed=seed),
        tokenizer=load("minilm").path("tokenizer.json"),
        labels=LABELS,
        precision="fp32",
        facts={"accuracy": 0.9},
    )


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Version 1.0."""
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def tiny_bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """Versions 1.0 and 2.0, which answer differently."""
    folder = tmp_path_factory.mktemp("bundles")
    return make_bundle(folder), make_bundle(folder, version="2.0", seed=1)
