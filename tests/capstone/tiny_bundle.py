"""A whole bundle in milliseconds: 60 items, 20 users, models of a few operators without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from capstone import bundle, calibration, gates
from capstone.bundle import Bundle, Facts
from capstone.calibration import Platt
from capstone.catalogue import Catalogue, simulated_creators
from capstone.reranking import RerankConfig
from capstone.sources import Quotas, SourceTables
from capstone.value import HEADS, ValueWeights
from labs.lab2_vector_db.index_building import build_index
from labs.lab2_vector_db.index_types import Recipe
from labs.lab2_vector_db.persistence import save_index

N_ITEMS, N_USERS, WIDTH, LENGTH, CANDIDATES = 60, 20, 8, 12, 30
GENRES = ("Drama", "Comedy", "War")
GOOD = {
    "ndcg_at_10": 0.1, "auc": 0.8, "ece": 0.02, "engage_log_ratio": 0.1, "overlap_at_10": 0.9,
    "tied_share": 0.0,
}  # fmt: skip
"""Figures that pass every gate."""


def build(
    folder: Path,
    *,
    seed: int = 0,
    checkpoint: str = "checkpoint",
    index_of: str | None = None,
    rerank: RerankConfig | None = None,
    titles: Mapping[int, str] | None = None,
    figures: Mapping[str, float] | None = GOOD,
    promote: bool = True,
) -> Bundle:
    """A bundle in ``folder``.

    Parameters
    ----------
    index_of
        Checkpoint that the index says it is of; the bundle's own by default.
    titles
        Of some items; the others are called after their number.
    figures, promote
        What its gates and the fairness gate said of it; without figures nobody has judged it.
    """
    parts = folder.with_name(f"{folder.name}-parts")
    parts.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(N_ITEMS + 1, WIDTH)).astype(np.float32)
    vectors[0] = 0
    ids = np.arange(1, N_ITEMS + 1)
    paths = {name: parts / file for name, file in bundle.PARTS.items()}
    onnx.save(_encoder(vectors), paths["encoder"])
    onnx.save(_ranker(rng.normal(size=(N_ITEMS + 1, WIDTH)).astype(np.float32)), paths["ranker"])
    recipe = Recipe(metric="inner_product")
    index = build_index(vectors[1:], recipe, ids=ids, seed=seed)
    save_index(index, paths["index"], recipe=recipe, version=index_of or checkpoint)
    visible = np.ones(N_ITEMS + 1, dtype=bool)
    visible[[0, N_ITEMS]] = False
    Catalogue(
        titles=("", *((titles or {}).get(item, f"Film {item}") for item in ids.tolist())),
        genres=((), *((GENRES[item % 3],) for item in ids)),
        creator=simulated_creators(N_ITEMS),
        first_seen=np.arange(N_ITEMS + 1) * 86_400,
        visible=visible,
    ).save(paths["catalogue"])
    order = rng.permutation(ids).astype(np.int32)
    SourceTables(
        neighbours=np.stack([np.roll(order, shift)[:4] for shift in range(N_ITEMS + 1)]),
        weights=np.ones((N_ITEMS + 1, 4), dtype=np.float32),
        popular=order,
        fresh=order[::-1].copy(),
        quotas=Quotas(nearest=15, item_to_item=5, popular=5, fresh=5),
    ).save(paths["sources"])
    np.save(paths["vectors"], vectors)
    calibration.save(paths["calibration"], {head: Platt(0.9, 0.1) for head in HEADS})
    facts = Facts(
        checkpoint=checkpoint,
        max_length=LENGTH,
        candidates=CANDIDATES,
        split_sha256="0" * 64,
        weights=ValueWeights(1.0, 0.5, dislike=-0.25),
        rerank=(rerank or RerankConfig(exploration_slots=1, exploration_pool=5)).as_json(),
    )
    if figures is not None:
        of = bundle.judged_parts(paths, facts.weights), bundle.served_parts(paths, facts)
        verdicts = {name: parts / bundle.OPTIONAL[name] for name in ("quality", "fairness")}
        gates.write_verdict(gates.judge(figures, GOOD), verdicts["quality"], of[0])
        gates.write_promotion(gates.Promotion(promote, "", of[1]), verdicts["fairness"])
        paths |= verdicts
    return bundle.assemble(folder, paths, facts)


def write_users(path: Path) -> Path:
    """Users 1 to 20: user u has watched the films u to u + 5."""
    rows = {
        str(user): [list(range(user, user + 6)), [4, 5, 3, 2, 5, 4]]
        for user in range(1, N_USERS + 1)
    }
    path.write_text(json.dumps(rows))
    return path


def _encoder(table: np.ndarray) -> onnx.ModelProto:
    """The mean of the history's vectors; padding is a vector of zeros."""
    return _model(
        [
            helper.make_node("Gather", ["table", "history"], ["embedded"]),
            helper.make_node("ReduceMean", ["embedded", "length"], ["query"], keepdims=0),
        ],
        {"table": table, "length": np.array([1])},
        {"history": ["batch", LENGTH]},
        {"query": ["batch", WIDTH]},
    )


def _ranker(table: np.ndarray) -> onnx.ModelProto:
    """engage: softmax over the catalogue; reactions: sigmoids of a product, moved by ratings."""
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "history"], ["embedded"]),
        node("ReduceMean", ["embedded", "one"], ["state"], keepdims=0),
        node("MatMul", ["state", "transposed"], ["logits"]),
        node("Softmax", ["logits"], ["p"], axis=-1),
        node("GatherElements", ["p", "candidates"], ["p_engage"], axis=1),
        node("Gather", ["table", "candidates"], ["chosen"]),
        node("Unsqueeze", ["state", "two"], ["column"]),
        node("MatMul", ["chosen", "column"], ["product"]),
        node("Squeeze", ["product", "two"], ["dot"]),
        node("Cast", ["ratings"], ["stars"], to=TensorProto.FLOAT),
        node("ReduceMean", ["stars", "one"], ["mean"], keepdims=1),
        node("Add", ["dot", "mean"], ["likes"]),
        node("Sub", ["likes", "unit"], ["loves"]),
        node("Neg", ["likes"], ["dislikes"]),
        *(node("Sigmoid", [f"{head}s"], [f"p_{head}"]) for head in ("like", "love", "dislike")),
    ]
    constants = {
        "table": table, "transposed": table.T.copy(), "one": np.array([1]), "two": np.array([2]),
        "unit": np.array([1.0], dtype=np.float32),
    }  # fmt: skip
    inputs: dict[str, list[str | int]] = {
        "history": ["batch", LENGTH], "ratings": ["batch", LENGTH], "candidates": ["batch", "n"]
    }  # fmt: skip
    return _model(nodes, constants, inputs, {f"p_{head}": ["batch", "n"] for head in HEADS})


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: dict[str, list[str | int]],
    outputs: dict[str, list[str | int]],
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value(name, TensorProto.INT64, shape) for name, shape in inputs.items()],
        [value(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model
