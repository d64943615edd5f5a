"""torchao's weight-only quantization, tried on this machine: what runs, and why the rest does not.

torchao replaces the weight of a ``torch.nn.Linear`` by a tensor subclass whose product does the
rest. Its kernels are written for ``torch.compile`` and for GPUs; without them, a CPU multiplies
after dequantizing, which is slower than float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.errors import require


@dataclass(frozen=True)
class TorchaoResult:
    """One configuration on one linear layer.

    ``refused`` is the error's text where it does not run. Otherwise ``relative_error`` is that of
    the layer's output, and ``bytes_per_weight`` counts all that the weight holds (float32: 4).
    """

    config: str
    refused: str
    relative_error: float | None = None
    bytes_per_weight: float | None = None

    @property
    def runs(self) -> bool:
        return not self.refused


def try_torchao(
    *, inputs: int = 256, outputs: int = 256, rows: int = 8, group_size: int = 32, seed: int = 0
) -> list[TorchaoResult]:
    """Quantize one linear layer with each weight-only configuration, on the CPU.

    Raises
    ------
    InputError
        ``inputs`` is no multiple of ``group_size``: torchao would leave the layer as it is.
    """
    import torch

    require(
        inputs % group_size == 0,
        "inputs",
        inputs,
        f"must be a multiple of group_size = {group_size}",
    )
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    results = []
    for name, (config, dtype) in _configurations(group_size).items():
        layer = torch.nn.Linear(inputs, outputs, bias=False, dtype=dtype).eval()
        with torch.inference_mode():
            expected = x.to(dtype).float() @ weight.to(dtype).float().T
        layer.weight.data.copy_(weight)
        try:
            found, taken = _quantized(layer, config, x.to(dtype))
        except (ImportError, NotImplementedError, AssertionError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            results.append(TorchaoResult(name, f"{type(error).__name__}: {reason}"))
            continue
        error_of = float((found.float() - expected).norm() / expected.norm())
        results.append(TorchaoResult(name, "", error_of, taken / weight.numel()))
    return results


def _configurations(group_size: int):  # type: ignore[no-untyped-def]
    import torch
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig
    from torchao.quantization import IntxWeightOnlyConfig as Intx
    from torchao.quantization.granularity import PerGroup

    def int4(packing: str) -> Callable[[], object]:
        return lambda: Int4WeightOnlyConfig(group_size=group_size, int4_packing_format=packing)

    def intx() -> object:
        return Intx(weight_dtype=torch.int4, granularity=PerGroup(group_size))  # type: ignore[attr-defined]

    half = torch.bfloat16
    return {
        "Int8WeightOnlyConfig": (Int8WeightOnlyConfig, torch.float32),
        "IntxWeightOnlyConfig(int4)": (intx, torch.float32),
        "Int4WeightOnlyConfig, plain": (int4("plain"), half),
        "Int4WeightOnlyConfig, plain_int32": (int4("plain_int32"), half),
        "Int4WeightOnlyConfig, tile_packed_to_4d": (int4("tile_packed_to_4d"), half),
    }


def _quantized(layer, config, x):  # type: ignore[no-untyped-def]
    """The layer's output after quantization, and the bytes of its weight."""
    import torch
    from torchao.quantization import quantize_

    quantize_(layer, config())
    names, _ = layer.weight.__tensor_flatten__()
    parts = [getattr(layer.weight, name) for name in names]
    taken = sum(each.numel() * each.element_size() for each in parts if each is not None)
    with torch.inference_mode():
        return layer(x), taken
