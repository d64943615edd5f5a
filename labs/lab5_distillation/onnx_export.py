"""A text classifier as one ONNX file, and its logits from ONNX Runtime.

The graph is written so that ONNX Runtime's transformer fusions recognise it: attention as one node,
bias and GELU as one, residual and layer norm as one. What is fused decides what can be integer
later: a fused Attention becomes QAttention, a MatMul with constant weights DynamicQuantizeMatMul.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common import onnx_files
from common.errors import InputError, RunError, require
from labs.lab5_distillation.encoders import TextClassifier, clone, layers_of
from labs.lab5_distillation.throughput import size_mb as size_mb
from labs.lab5_distillation.tokens import Batches, TokenSet

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

INPUTS = ("input_ids", "attention_mask")
MASKED = -10_000.0  # what is added to the scores of padding; Attention's own default
TOLERANCE = 1e-3  # largest difference of a logit that rounding in float32 explains


class _Exported(nn.Module):
    """The classifier with the additive mask written out, as the fusions expect to find it.

    transformers builds the mask with index arithmetic that no fusion recognises; a mask of four
    axes it takes as it is.
    """

    def __init__(self, model: TextClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        real = attention_mask[:, None, None, :].to(torch.float32)
        states = self.model.encoder(
            input_ids=input_ids, attention_mask=(1.0 - real) * MASKED
        ).last_hidden_state
        logits: Tensor = self.model.head(self.model.pool(states, attention_mask))
        return logits


def export_onnx(model: TextClassifier, path: Path, *, fused: bool = True) -> Path:
    """Write a classifier as ONNX, whole or not at all, and hold it against torch.

    Inputs are int64 ``input_ids`` and ``attention_mask`` [batch, tokens], both axes dynamic; the
    output is ``logits`` [batch, classes] float32. Dropout is off.

    Parameters
    ----------
    fused
        Fuse attention, GELU and layer norms by ONNX Runtime's transformer optimizer. Without it
        the attention stays separate products, which is what 4-bit weights need.

    Raises
    ------
    RunError
        The attention was not recognised (``fused``), or the file answers otherwise than torch.
    """
    import onnx

    copied = clone(model).cpu().eval()
    for module in copied.encoder.modules():  # a student's layers may hold configs of their own
        if (config := getattr(module, "config", None)) is not None:
            config._attn_implementation = "eager"
    with onnx_files.whole(path) as partial:
        with quiet(), torch.no_grad():
            torch.onnx.export(
                _Exported(copied).eval(),
                _example(copied, rows=2, tokens=5),
                partial,
                input_names=list(INPUTS),
                output_names=["logits"],
                dynamic_shapes=({0: "batch", 1: "tokens"}, {0: "batch", 1: "tokens"}),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        graph = onnx.load(partial)
        # torch 2.11 turns constant weights over and leaves their old shapes here.
        del graph.graph.value_info[:]
        onnx.save(graph, partial)
        if fused:
            onnx.save(_fused(graph, copied.encoder.config), partial)
            found, wanted = operators(partial)["Attention"], len(layers_of(copied))
            if found != wanted:
                raise RunError(
                    f"{found} of {wanted} attentions of "
                    f"{type(copied.encoder).__name__} were recognised; export with fused=False"
                )
        ids, mask = _example(copied, rows=3, tokens=8)
        with torch.no_grad():
            expected = copied(ids, mask).numpy()
        largest = float(np.abs(run(session(partial), ids.numpy(), mask.numpy()) - expected).max())
        if not largest <= TOLERANCE:
            raise RunError(
                f"the exported {type(copied.encoder).__name__} differs from torch by {largest:.2g} "
                f"in a logit, more than {TOLERANCE}"
            )
    return path


def _example(model: TextClassifier, *, rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Random ids [rows, tokens] and a mask in which each row is shorter than the one before."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, model.encoder.config.vocab_size, (rows, tokens), generator=generator)
    mask = (torch.arange(tokens) < tokens - torch.arange(rows)[:, None]).long()
    return ids * mask, mask


def _fused(graph: onnx.ModelProto, config: Any) -> onnx.ModelProto:
    from onnx import helper
    from onnxruntime.transformers.fusion_options import AttentionMaskFormat, FusionOptions
    from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

    _split_unsqueeze(graph)
    _divide_scores(graph)
    options = FusionOptions("bert")
    options.attention_mask_format = AttentionMaskFormat.AttentionMask
    with quiet():
        bert = BertOnnxModel(
            graph, num_heads=config.num_attention_heads, hidden_size=config.hidden_size
        )
        bert.optimize(options)
        bert.topological_sort()
    made: onnx.ModelProto = bert.model
    if all(each.domain != "com.microsoft" for each in made.opset_import):
        made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


def _split_unsqueeze(graph: onnx.ModelProto) -> None:
    """Write every Unsqueeze over several axes as one an axis: the pattern of the mask has two."""
    from onnx import helper, numpy_helper

    constants = {each.name: each for each in graph.graph.initializer}
    nodes = []
    for node in graph.graph.node:
        axes = constants.get(node.input[1]) if node.op_type == "Unsqueeze" else None
        wanted = [] if axes is None else sorted(numpy_helper.to_array(axes).tolist())
        if len(wanted) < 2 or wanted[0] < 0:
            nodes.append(node)
            continue
        source = node.input[0]
        for axis in wanted:
            name = f"{node.output[0]}_axis_{axis}"
            target = node.output[0] if axis == wanted[-1] else f"{node.output[0]}_to_{axis}"
            graph.graph.initializer.append(numpy_helper.from_array(np.array([axis], "int64"), name))
            nodes.append(helper.make_node("Unsqueeze", [source, name], [target]))
            source = target
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _divide_scores(graph: onnx.ModelProto) -> None:
    """Write ``scores * c`` as ``scores / (1 / c)``.

    The mask is a product as well. Where both inputs of the Add are a Mul, the optimizer follows the
    first one it meets, and finds no mask there.
    """
    from onnx import numpy_helper

    constants = {each.name: each for each in graph.graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    def next_types(node: onnx.NodeProto) -> list[str]:
        return [user.op_type for user in users.get(node.output[0], [])]

    for add in graph.graph.node:
        if add.op_type != "Add" or next_types(add) != ["Softmax"]:
            continue
        for node in graph.graph.node:
            if node.op_type == "Mul" and node.output[0] == add.input[0]:
                factor = numpy_helper.to_array(constants[node.input[1]])
                name = f"{node.output[0]}_divisor"
                divisor = np.asarray(1 / factor, np.float32)
                graph.graph.initializer.append(numpy_helper.from_array(divisor, name))
                node.op_type, node.input[1] = "Div", name


def session(path: Path, *, threads: int = 1) -> InferenceSession:
    """Open an ONNX file on the CPU; ``threads`` work inside an operator.

    Raises
    ------
    InputError
        No such file, or ``threads`` below 1.
    """
    import onnxruntime

    require(threads >= 1, "threads", threads, "must be at least 1")
    if not path.is_file():
        raise InputError(f"no ONNX model at {path}; write one first (export_onnx)")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(
    opened: InferenceSession, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Logits [batch, classes] of int64 ids and mask [batch, tokens]."""
    found: Any = opened.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})[0]
    logits: NDArray[np.float32] = found
    return logits


def session_logits(
    model: InferenceSession | Path, texts: TokenSet, *, batch_size: int = 32, threads: int = 1
) -> Tensor:
    """Logits [N, C] float32 of texts, in their order: `recipe.logits` by ONNX Runtime.

    Batches hold texts of like length. With dynamic INT8 the scale of an activation is that of its
    whole batch, so another ``batch_size`` gives slightly other logits.
    """
    opened = session(model, threads=threads) if isinstance(model, Path) else model
    found: Tensor | None = None
    for batch in Batches(texts, batch_size):
        ids, mask = batch.input_ids.cpu().numpy(), batch.attention_mask.cpu().numpy()
        part = torch.from_numpy(run(opened, ids, mask))
        if found is None:
            found = part.new_empty(len(texts), part.shape[1])
        found[batch.rows.cpu()] = part
    assert found is not None
    return found


def operators(path: Path) -> Counter[str]:
    """How often each operator occurs in an ONNX file."""
    import onnx

    return Counter(node.op_type for node in onnx.load(path).graph.node)


def running_operators(path: Path) -> Counter[str]:
    """How often each operator occurs in the graph that a session makes of a file and runs."""
    import tempfile

    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="optimized-") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        written = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(written)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return operators(written)


@contextmanager
def quiet() -> Iterator[None]:
    """`onnx_files.quiet` for the exporter and the fusions, whose warnings ask for nothing."""
    # Without torchvision the exporter warns once for each torchvision operator.
    for name in (
        "torch.onnx._internal.exporter._registration",
        "fusion_base",
        "fusion_utils",
        "onnx_model",
        "onnx_model_bert",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    with onnx_files.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
