"""Transformer fusion: many small nodes become one, if the graph looks as the optimizer expects.

ONNX Runtime's transformer optimizer recognises attention, biased GELU and added layer norms by the
exact shape of the subgraph that exporters once wrote. Another exporter writes an equal subgraph,
nothing matches, and nothing is said.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from common.errors import InputError, RunError, require

FUSIONS = {
    "Attention": "the three projections, the scores, the softmax and the mixing of one layer",
    "SkipLayerNormalization": "bias, residual and layer norm",
    "BiasGelu": "bias and GELU",
    "EmbedLayerNormalization": "the lookups of the embeddings and their layer norm",
}


@dataclass(frozen=True)
class FusionReport:
    """Nodes by operator before and after, and how often each of ``FUSIONS`` matched."""

    before: dict[str, int]
    after: dict[str, int]
    matched: dict[str, int]

    @property
    def nodes(self) -> tuple[int, int]:
        return sum(self.before.values()), sum(self.after.values())

    @property
    def unmatched(self) -> list[str]:
        return [name for name, count in self.matched.items() if not count]


def operators(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs in a graph, the most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def split_unsqueeze(model: onnx.ModelProto) -> int:
    """Write every Unsqueeze over several axes as one an axis, in place.

    The attention pattern ends in two Unsqueeze nodes, as ``mask[:, None, None, :]`` was exported by
    tracing. The exporter on ``torch.export`` merges them into one, equal and not recognised.

    Returns
    -------
    int
        How many nodes were split.
    """
    constants = {each.name: each for each in model.graph.initializer}
    nodes, split = [], 0
    for node in model.graph.node:
        axes = constants.get(node.input[1]) if node.op_type == "Unsqueeze" else None
        wanted = [] if axes is None else sorted(numpy_helper.to_array(axes).tolist())
        if len(wanted) < 2 or wanted[0] < 0:
            nodes.append(node)
            continue
        split += 1
        source = node.input[0]
        for axis in wanted:
            name = f"{node.output[0]}_axis_{axis}"
            target = node.output[0] if axis == wanted[-1] else f"{node.output[0]}_to_{axis}"
            model.graph.initializer.append(numpy_helper.from_array(np.array([axis], "int64"), name))
            nodes.append(helper.make_node("Unsqueeze", [source, name], [target]))
            source = target
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return split


def fuse(
    path: Path,
    fused_path: Path,
    *,
    heads: int,
    width: int,
    prepare: bool = True,
    mask_counts_tokens: bool = False,
) -> FusionReport:
    """Write the fused version of a BERT-like ONNX model, whole or not at all.

    Parameters
    ----------
    heads, width
        Of the attention.
    prepare
        Split merged Unsqueeze nodes first (:func:`split_unsqueeze`); without it the attention of
        a graph from ``torch.export`` is not recognised.
    mask_counts_tokens
        Replace the mask by its sum, the number of tokens in a row: the optimizer's own default
        for BERT. Right for padding at the end only; with padding on the left, the first tokens
        are taken for real and the last are dropped. Here for the trap.

    Returns
    -------
    FusionReport
        What did not match is part of it; the optimizer raises nothing.

    Raises
    ------
    InputError
        The file is missing.
    RunError
        No fusion matched.
    """
    from onnxruntime.transformers.fusion_options import AttentionMaskFormat, FusionOptions
    from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

    require(heads >= 1 and width % heads == 0, "width", width, f"must be a multiple of {heads}")
    if not path.is_file():
        raise InputError(f"no ONNX model at {path}; export one first (export_onnx)")
    model = onnx.load(path)
    before = operators(model)
    if prepare:
        split_unsqueeze(model)
    options = FusionOptions("bert")
    options.attention_mask_format = (
        AttentionMaskFormat.MaskIndexEnd
        if mask_counts_tokens
        else AttentionMaskFormat.AttentionMask
    )
    for name in ("fusion_base", "fusion_utils", "onnx_model", "onnx_model_bert"):
        logging.getLogger(name).setLevel(logging.WARNING)
    bert = BertOnnxModel(model, num_heads=heads, hidden_size=width)
    bert.optimize(options)
    bert.topological_sort()
    after = operators(bert.model)
    matched = {name: after.get(name, 0) for name in FUSIONS}
    if not any(matched.values()):
        raise RunError(f"no fusion matched in {path.name}: its operators are {before}")
    fused_path.parent.mkdir(parents=True, exist_ok=True)
    partial = fused_path.with_name(f".{fused_path.name}.{os.getpid()}.partial")
    try:
        onnx.save(bert.model, partial)
        partial.replace(fused_path)
    finally:
        partial.unlink(missing_ok=True)
    return FusionReport(before, after, matched)
