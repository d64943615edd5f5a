"""The graph of the lab's encoder, one layer, as the exporter writes it, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WIDTH, HEADS, INNER, CLASSES, VOCABULARY = 64, 4, 128, 5, 300


def tiny_encoder(path: Path, seed: int = 0) -> Path:
    """Random weights; attention is sharp, so that a mask that does not mask shows."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {
        "words": rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32),
        "one": np.array(1.0, np.float32),
        "low": np.array(-10000.0, np.float32),
        "root": np.array((WIDTH / HEADS) ** 0.5, np.float32),
        "split": np.array([0, 0, HEADS, WIDTH // HEADS]),
        "joined": np.array([0, 0, WIDTH]),
        "tokens_axis": np.array([1]),
        "last_axis": np.array([2]),
        "mask_axes": np.array([1, 2]),
    }
    nodes: list[onnx.NodeProto] = []

    def op(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def linear(x: str, name: str, rows: int, columns: int, scale: float = 1.0) -> str:
        weight = rng.normal(size=(rows, columns)) * scale / rows**0.5
        constants[f"{name}.weight"] = weight.astype(np.float32)
        constants[f"{name}.bias"] = (0.1 * rng.normal(size=columns)).astype(np.float32)
        product = op("MatMul", [x, f"{name}.weight"], f"{name}.product")
        return op("Add", [product, f"{name}.bias"], name)

    def norm(x: str, name: str) -> str:
        constants[f"{name}.weight"] = np.ones(WIDTH, np.float32)
        constants[f"{name}.offset"] = np.zeros(WIDTH, np.float32)
        return op("LayerNormalization", [x, f"{name}.weight", f"{name}.offset"], name, axis=-1)

    def heads(x: str, order: list[int]) -> str:
        return op("Transpose", [op("Reshape", [x, "split"], f"{x}.4d")], f"{x}.heads", perm=order)

    real = op("Cast", ["attention_mask"], "real", to=TensorProto.FLOAT)
    wide = op("Unsqueeze", [real, "mask_axes"], "wide")
    bias = op("Mul", [op("Sub", ["one", wide], "padding"), "low"], "mask_bias")
    x = norm(op("Gather", ["words", "input_ids"], "embedded"), "norm")
    q = heads(linear(x, "query", WIDTH, WIDTH, 2.0), [0, 2, 1, 3])
    k = heads(linear(x, "key", WIDTH, WIDTH, 2.0), [0, 2, 3, 1])
    v = heads(linear(x, "value", WIDTH, WIDTH), [0, 2, 1, 3])
    scores = op("Div", [op("MatMul", [q, k], "scores"), "root"], "scaled")
    shares = op("Softmax", [op("Add", [scores, bias], "masked")], "shares", axis=-1)
    mixed = op("Transpose", [op("MatMul", [shares, v], "mixed")], "mixed.t", perm=[0, 2, 1, 3])
    out = linear(op("Reshape", [mixed, "joined"], "mixed.3d"), "output", WIDTH, WIDTH)
    x = norm(op("Add", [x, out], "x1"), "attention_norm")
    inner = op("Relu", [linear(x, "inner", WIDTH, INNER)], "relu")
    x = norm(op("Add", [x, linear(inner, "outer", INNER, WIDTH)], "x2"), "outer_norm")
    weight = op("Unsqueeze", [real, "last_axis"], "weight")
    total = op("ReduceSum", [op("Mul", [x, weight], "kept"), "tokens_axis"], "total", keepdims=0)
    count = op("ReduceSum", [weight, "tokens_axis"], "count", keepdims=0)
    constants["head.weight"] = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    constants["head.bias"] = np.zeros(CLASSES, np.float32)
    mean = op("Div", [total, count], "mean")
    op("Gemm", [mean, "head.weight", "head.bias"], "logits", transB=1)

    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "encoder", inputs, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
