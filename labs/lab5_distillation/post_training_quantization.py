"""Quantization after training: what ONNX Runtime makes of a student that was never told.

Dynamic INT8 takes the range of an activation from each batch, static INT8 from calibration texts;
both round weights with a scale an output channel and look-up tables with one scale. Tables matter
here: 30,522 words of 384 numbers are three quarters of a 2-layer student's parameters.

Weight-only files of 4 bits and less are written from a prepared student (`fake_quantization`): its
codes and scales are stored as they are.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, RunError, require
from common.onnx_files import whole
from labs.lab5_distillation.encoders import TextClassifier
from labs.lab5_distillation.fake_quantization import Codes, FakeQuantLinear, strip
from labs.lab5_distillation.onnx_export import export_onnx, operators, quiet
from labs.lab5_distillation.tokens import Batches, TokenSet

if TYPE_CHECKING:
    import onnx

TABLES = ("Gather",)
PRODUCTS = ("MatMul", "Gemm")
INTEGER_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni")
FLOAT = 1  # onnx.TensorProto.FLOAT
NIBBLE = Codes(-8, 7)
BLOCK = 128  # weights that share a stored scale; MatMulNBits takes powers of two from 16 on


def has_integer_dot_product(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this x86 CPU adds products of u8 and s8 in 32 bits; without it use 7-bit weights."""
    if not cpuinfo.is_file():
        return False
    words = set(cpuinfo.read_text().split())
    return any(name in words for name in INTEGER_INSTRUCTIONS)


def quantize_dynamic_int8(fp32_path: Path, path: Path, *, reduce_range: bool = False) -> Path:
    """Dynamic INT8 of an exported classifier: attention, products and tables.

    Parameters
    ----------
    fp32_path
        From `onnx_export.export_onnx`, fused: then the attention becomes QAttention.
    reduce_range
        7-bit weights, for CPUs without an integer dot product (`has_integer_dot_product`).

    Raises
    ------
    InputError
        No such file.
    RunError
        No product became integer.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _require_file(fp32_path)
    with whole(path) as partial:
        with quiet():
            quantize_dynamic(
                fp32_path,
                partial,
                per_channel=True,
                reduce_range=reduce_range,
                weight_type=QuantType.QInt8,
                # Shape inference does not know what comes out of a fused node.
                extra_options={"DefaultTensorType": FLOAT},
            )
        found = operators(partial)
        if not found["MatMulInteger"]:
            raise RunError(f"{fp32_path.name} has no product with constant weights: {found}")
    return path


class _Calibration:
    """Batches of texts as ONNX Runtime's calibration reads them: one at a time, then None."""

    def __init__(self, texts: TokenSet, batch_size: int) -> None:
        self._batches = iter(Batches(texts, batch_size))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        ids, mask = batch.input_ids.cpu().numpy(), batch.attention_mask.cpu().numpy()
        return {"input_ids": ids, "attention_mask": mask}


def quantize_static_int8(
    fp32_path: Path, path: Path, texts: TokenSet, *, batch_size: int = 16
) -> Path:
    """Static INT8: ranges of activations from calibration texts, by their least and largest value.

    What a product gives stays float: rounding it too (ONNX Runtime's default) would make all logits
    equal that are larger than any seen in calibration.

    Parameters
    ----------
    fp32_path
        From `onnx_export.export_onnx` with ``fused=False``: a fused attention stays float.
    texts
        A few hundred, from the training part.

    Raises
    ------
    InputError
        No such file.
    RunError
        Nothing was quantized.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(_Calibration, CalibrationDataReader):
        pass

    _require_file(fp32_path)
    with tempfile.TemporaryDirectory(prefix="static-") as folder, whole(path) as partial:
        prepared = Path(folder) / "prepared.onnx"
        with quiet():
            quant_pre_process(fp32_path, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                partial,
                Reader(texts, batch_size),
                op_types_to_quantize=[*PRODUCTS, *TABLES],
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                extra_options={
                    "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
                    "MatMulConstBOnly": True,
                },
            )
        if not operators(partial)["DequantizeLinear"]:
            raise RunError(f"nothing in {fp32_path.name} was quantized")
    return path


def write_weight_only(
    prepared: TextClassifier, path: Path, *, plain: Path | None = None, block: int = BLOCK
) -> Path:
    """Write a prepared student with weights of at most 4 bits, as it was trained.

    Each linear map of the encoder becomes a MatMulNBits of 4-bit codes, two a byte, with the scales
    of the student (a channel's scale is repeated in each block, which MatMulNBits wants). Codes of
    3 or 2 bits fit as well; the file is not smaller for it. The head is stored in 8 bits and the
    tables as dynamic INT8 stores them; activations are float32.

    Parameters
    ----------
    prepared
        From `fake_quantization.prepare` with `weight_only`; trained or not.
    plain
        The unfused float32 file of ``strip(prepared)``, where there is one already.

    Raises
    ------
    InputError
        Activations are rounded too, or weights have more than 4 bits.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    maps = {
        name: each for name, each in prepared.named_modules() if isinstance(each, FakeQuantLinear)
    }
    inner = [each for name, each in maps.items() if name != "head"]
    if not inner or any(each.input_codes is not None for each in inner):
        raise InputError("write_weight_only wants a student prepared with weight_only(bits)")
    highest = max(each.weight_codes.high for each in inner)
    require(highest <= NIBBLE.high, "codes", highest, "must be at most 7 to fit into 4 bits")
    with tempfile.TemporaryDirectory(prefix="weights-") as folder, whole(path) as partial:
        if plain is None:
            plain = export_onnx(strip(prepared), Path(folder) / "fp32.onnx", fused=False)
        with quiet():
            quantize_dynamic(
                plain,
                partial,
                op_types_to_quantize=list(TABLES),
                weight_type=QuantType.QInt8,
                extra_options={"DefaultTensorType": FLOAT},
            )
        graph = onnx.load(partial)
        _store_codes(graph, maps, block)
        onnx.save(graph, partial)
    return path


def _store_codes(graph: onnx.ModelProto, maps: dict[str, FakeQuantLinear], block: int) -> None:
    """Replace the float weights of products by the codes of the maps that they came from."""
    from onnx import helper, numpy_helper

    inner = graph.graph
    weights = {each.name: each for each in inner.initializer}
    by_value = {each.weight.detach().cpu().numpy().tobytes(): each for each in maps.values()}
    nodes, gone = [], set()
    for node in inner.node:
        if node.op_type not in PRODUCTS or node.input[1] not in weights:
            nodes.append(node)
            continue
        name = node.input[1]
        array = numpy_helper.to_array(weights[name])
        columns = node.op_type == "MatMul"  # [in, out]; the weight of a Gemm is [out, in]
        source = by_value[np.ascontiguousarray(array.T if columns else array).tobytes()]
        codes, scales = (each.cpu().numpy() for each in source.stored())
        gone.add(name)
        if source.weight_codes.high > NIBBLE.high:  # the head: read back before the product
            # Not by DequantizeLinear: a session would fuse it with the product into a MatMulNBits
            # that rounds the inputs as well.
            turned = (codes.T, scales) if columns else (codes, scales[:, None])
            made = dict(zip((f"{name}_codes", f"{name}_scales"), turned))
            floats, read = f"{name}_floats", f"{name}_read"
            nodes.append(helper.make_node("Cast", [f"{name}_codes"], [floats], to=FLOAT))
            nodes.append(helper.make_node("Mul", [floats, f"{name}_scales"], [read]))
            node.input[1] = read
            nodes.append(node)
        else:
            out, width = codes.shape
            packed = pack_nibbles(codes, block)
            repeated = np.repeat(scales, packed.shape[1])
            made = {f"{name}_packed": packed, f"{name}_scales": repeated}
            shape = {"K": width, "N": out, "bits": 4, "block_size": block}
            inputs = [node.input[0], *made]
            nodes.append(
                helper.make_node(
                    "MatMulNBits", inputs, list(node.output), domain="com.microsoft", **shape
                )
            )
        inner.initializer.extend(numpy_helper.from_array(each, key) for key, each in made.items())
    kept = [each for each in inner.initializer if each.name not in gone]
    del inner.node[:], inner.initializer[:]
    inner.node.extend(nodes)
    inner.initializer.extend(kept)
    if all(each.domain != "com.microsoft" for each in graph.opset_import):
        graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def pack_nibbles(codes: NDArray[np.int8], block: int = BLOCK) -> NDArray[np.uint8]:
    """Codes -8 to 7 [out, in] as MatMulNBits stores them: uint8 [out, blocks, block / 2].

    8 is added, so that 0 is code 8; even places go into the low half of a byte. The last block of a
    row is filled up with zeros.
    """
    out, width = codes.shape
    blocks = -(-width // block)
    filled = np.full((out, blocks * block), 8, np.uint8)
    filled[:, :width] = codes.astype(np.int16) + 8
    pairs = filled.reshape(out, blocks, block // 2, 2)
    packed: NDArray[np.uint8] = pairs[..., 0] | (pairs[..., 1] << 4)
    return packed


def saturating_product(inputs: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int32]:
    """Product of u8 [rows, in] and s8 [out, in] as a CPU without an integer dot product forms it.

    vpmaddubsw adds two neighbouring products into 16 bits and saturates: 2 x 255 x 127 = 64,770 is
    read as 32,767. With weights of 7 bits, 2 x 255 x 64 = 32,640 fits. ``in`` is even.
    """
    products = inputs[:, None, :].astype(np.int32) * weights[None].astype(np.int32)
    pairs = products[..., 0::2] + products[..., 1::2]
    limits = np.iinfo(np.int16)
    total: NDArray[np.int32] = np.clip(pairs, limits.min, limits.max).sum(-1, dtype=np.int32)
    return total


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"no ONNX model at {path}; write one first (export_onnx)")
