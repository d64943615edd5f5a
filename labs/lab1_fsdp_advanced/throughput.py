"""Performance accounting: tokens a second, and how much of the hardware they use.

MFU asks how fast the *model* advances; HFU how busy the hardware is, recomputation included. Only
MFU compares two ways to train: recomputing more raises HFU and lowers MFU.

PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B) defined both.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import torch

from common.errors import require
from common.exercises import exercise
from labs.lab1_fsdp_advanced.activation_checkpointing import Mode
from labs.lab1_fsdp_advanced.model import Shape

PEAKS = {
    "H100 PCIe": {"bf16": 756e12, "fp16": 756e12, "fp8": 1513e12},
    "H100 NVL": {"bf16": 835e12, "fp16": 835e12, "fp8": 1671e12},
    "H100": {"bf16": 989e12, "fp16": 989e12, "fp8": 1979e12},
    "H200": {"bf16": 989e12, "fp16": 989e12, "fp8": 1979e12},
    "A100": {"bf16": 312e12, "fp16": 312e12},
    "L40S": {"bf16": 362e12, "fp16": 362e12, "fp8": 733e12},
    "L4": {"bf16": 121e12, "fp16": 121e12, "fp8": 242e12},
    "A10": {"bf16": 125e12, "fp16": 125e12},
    "4090": {"bf16": 165e12, "fp16": 165e12, "fp8": 330e12},
    "V100": {"fp16": 125e12},
}
"""Dense matrix products, operations a second, from the vendor's data sheets, by name of the GPU.

The first name that fits counts. fp32 is not among them: what a GPU reaches depends on whether
TF32 is allowed (``torch.set_float32_matmul_precision``), so it is measured.
"""


LONG_S = 0.05


@exercise(
    "1.6",
    points=10,
    title="Model FLOP utilisation",
    hint="One multiplication and one addition a weight and token forwards; backwards there are two "
    "products for each forward one. Is looking a row up in the embedding table a product?",
)
def model_flops_per_token(shape: Shape, context: int) -> int:
    """Floating-point operations that one token of training needs: forward and backward pass.

    Every weight that multiplies a token costs 2 operations forwards and 4 backwards, 6 in all: the
    blocks' matrices and the head, neither the embedding table (a lookup) nor the norms. Attention
    adds two products of ``context`` x ``width`` a layer and token, keys and values: again 2
    operations forwards and 4 backwards for each.

        6 (layers * matrices of a block + vocabulary * width) + 12 layers * context * width

    Attention is counted in full although the causal mask needs half of it: so do the published
    figures (PaLM, llm-foundry), and a convention is of use only when it is shared. Recomputation
    is not counted: the model does not need it.

    Parameters
    ----------
    shape
        ``shape.block_parameters`` includes two norms of ``width``.
    context
        Tokens of a window.

    Examples
    --------
    >>> model_flops_per_token(Shape(width=4, layers=1, heads=2, context=8, vocabulary=10), 8)
    5616
    """
    products = shape.layers * (shape.block_parameters - 2 * shape.width)
    products += shape.vocabulary * shape.width
    return 6 * products + 12 * shape.layers * context * shape.width


def hardware_flops_per_token(shape: Shape, context: int, checkpointing: Mode) -> int:
    """The same, with what activation checkpointing computes again in the backward pass.

    ``full`` repeats each block's forward pass up to its last product, ``down``: no gradient needs
    what that gives, and torch stops before it. ``selective`` keeps attention and every second of
    the seven products (queries, keys, values, output, gate, up, down), so keys, output and up are
    computed again.
    """
    keys, square = shape.width * shape.key_value_width, shape.width**2
    inside = shape.width * shape.mlp_width
    again = {
        "none": 0,
        "selective": keys + square + inside,
        "full": 2 * (keys + square + inside + context * shape.width),
    }[checkpointing]
    return model_flops_per_token(shape, context) + 2 * shape.layers * again


def utilisation(tokens_per_second: float, flops_per_token: int, peak: float) -> float:
    """Share of ``peak`` (operations a second, of all devices together) that the tokens use."""
    require(peak > 0, "peak", peak, "must be > 0 operations a second")
    return tokens_per_second * flops_per_token / peak


@dataclass(frozen=True)
class Peak:
    """Operations a second of one device, and where the number is from."""

    flops: float
    source: str


def peak_of(device: torch.device | str, precision: str) -> Peak:
    """Data sheet of a known GPU; anything else is measured, with one large matrix product."""
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
        model = known_gpu(name)
        if model is not None and precision in PEAKS[model]:
            return Peak(PEAKS[model][precision], f"data sheet, {name}, dense {precision}")
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}.get(precision)
    return Peak(
        measured_peak(device, kind or torch.float32), "measured: the fastest matrix product"
    )


def known_gpu(name: str) -> str | None:
    """The key of ``PEAKS`` that ``name`` holds as whole words: an L40 is no L4, an A10G no A10."""
    return next((model for model in PEAKS if re.search(rf"\b{model}\b", name)), None)


def measured_peak(device: torch.device | str, dtype: torch.dtype, *, size: int = 8192) -> float:
    """Operations a second of the fastest of some matrix products, up to ``size`` cubed.

    It begins small and stops growing once a product takes long: a CPU without fp16 units is a
    thousand times slower in fp16 than in fp32.
    """
    side, best = 128, 0.0
    while True:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        fastest = float("inf")
        for _ in range(5):
            synchronise(device)
            start = time.perf_counter()
            a @ b
            synchronise(device)
            fastest = min(fastest, time.perf_counter() - start)
        best = max(best, 2 * side**3 / fastest)
        if side >= size or fastest > LONG_S:
            return best
        side *= 2


def synchronise(device: torch.device | str) -> None:
    """Wait for a GPU: kernels only start when they are called, a clock would read too early."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
