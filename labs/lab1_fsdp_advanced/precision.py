"""Mixed precision: what is computed, summed and kept in which type.

=========  =================  ==============  ===========  =======================================
precision  weights, moments   matrix product  grad. sum    what can go wrong
=========  =================  ==============  ===========  =======================================
fp32       fp32               fp32            fp32         slow, nothing else
bf16       fp32               bf16            fp32         8 bits of mantissa; range as in fp32
fp16       fp32               fp16            fp32         gradients below 3e-8 are 0
fp8        fp32               e4m3 / e5m2     fp32         each tensor needs a scale of its own
=========  =================  ==============  ===========  =======================================

Micikevicius et al.: mixed precision training (2018), arXiv 1710.03740, and FP8 formats for deep
learning (2022), arXiv 2209.05433.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from common.errors import InputError
from common.exercises import exercise

FP8_MULTIPLE = 16


class Precision(StrEnum):
    """Types in which a model computes; its weights are fp32 in all of them."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"

    @property
    def param_dtype(self) -> torch.dtype | None:
        """Type of the weights while they are gathered; None: as they are kept."""
        types = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
        return types.get(self)


def require_support(precision: Precision, device: str) -> None:
    """Refuse fp8 on a GPU that has no such units.

    Raises
    ------
    InputError
        On a CUDA device below compute capability 8.9. On a CPU fp8 is emulated: it shows the
        rounding, not the speed.
    """
    if precision is Precision.FP8 and device == "cuda":
        capability = torch.cuda.get_device_capability()
        if capability < (8, 9):
            found = ".".join(map(str, capability))
            raise InputError(
                f"precision = fp8 needs a GPU of compute capability 8.9 (Ada, Hopper), this one "
                f"has {found}; take bf16"
            )


def make_scaler(precision: Precision, device: str) -> GradScaler | None:
    """A gradient scaler for fp16; the others have the range of fp32 and need none."""
    return GradScaler(device) if precision is Precision.FP16 else None


@exercise(
    "1.8",
    points=10,
    title="A step with a gradient scaler",
    hint="The gradients in p.grad are too large by the scale. Which of clipping and unscaling must "
    "come first? And how does the caller learn that the scaler left the step out?",
)
def scaled_step(
    optimizer: Optimizer, parameters: Iterable[Tensor], scaler: GradScaler, max_norm: float
) -> tuple[float, bool]:
    """Unscale, clip and step, or leave the step out and lower the scale; call after ``backward``.

    The loss was multiplied by ``scaler.get_scale()`` so that small fp16 gradients do not become
    0. When the product overflows, the gradient is inf or NaN: that step is left out, on *every*
    rank, and the scale is lowered. That is expected now and then, and no error.

    Parameters
    ----------
    optimizer
        Holds ``parameters``, whose ``grad`` is scaled. They may be DTensors.
    max_norm
        Largest L2 norm of the whole *unscaled* gradient; ``math.inf`` does not clip.

    Returns
    -------
    tuple of float and bool
        The norm of the whole unscaled gradient before clipping (a plain number, equal on every
        rank; inf or NaN when it overflowed), and whether the step was left out.

    Notes
    -----
    ``scaler.step`` itself leaves out a step with a gradient that is not finite;
    ``scaler.update`` then lowers the scale, and after 2,000 good steps raises it.

    Examples
    --------
    >>> scaler.scale(loss).backward()
    >>> norm, skipped = scaled_step(optimizer, model.parameters(), scaler, max_norm=1.0)
    """
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return float(whole), scaler.get_scale() < before


class Float8Linear(nn.Linear):
    """A linear layer whose three products run in 8-bit floating point, scaled tensor by tensor.

    Weights and inputs are rounded to e4m3 (3 bits of mantissa, largest 448), gradients to e5m2 (2
    bits, largest 57,344): they need range more than digits. The rounding costs two passes over
    each tensor (largest value, cast), so it pays for large products only. The hardware multiplies
    sides that are multiples of 16: rows of zeros fill up a number of tokens that is not.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the type of ``x``."""
        rows = x.flatten(0, -2)
        missing = -len(rows) % FP8_MULTIPLE
        if missing:
            rows = F.pad(rows, (0, 0, 0, missing))
        product: Tensor = _Float8Product.apply(rows, self.weight)
        return product[: len(rows) - missing].unflatten(0, x.shape[:-1])


class _Float8Product(torch.autograd.Function):
    """x [M, K] times weight [N, K] transposed, forwards and backwards in fp8."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, torch.float8_e4m3fn)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_input = _product(gradient, weight.t(), torch.float8_e5m2)
        to_weight = _product(gradient.t(), x.t(), torch.float8_e5m2)
        return to_input, to_weight


def _product(a: Tensor, b: Tensor, type_of_a: torch.dtype) -> Tensor:
    """a [M, K] @ b [N, K] transposed; the hardware wants both with K running fastest."""
    left, scale_left = to_float8(a, type_of_a)
    right, scale_right = to_float8(b, torch.float8_e4m3fn)
    return torch._scaled_mm(
        left.contiguous(),
        right.contiguous().t(),
        scale_a=scale_left,
        scale_b=scale_right,
        out_dtype=a.dtype,
    )


def to_float8(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``x`` rounded to ``dtype``, and the fp32 scalar to multiply it with to have it back.

    The largest value of the tensor lands on the largest number of the type.
    """
    limit = torch.finfo(dtype).max
    largest = x.abs().amax().float().clamp(min=1e-12)
    scale = limit / largest
    return (x.float() * scale).clamp(-limit, limit).to(dtype), 1.0 / scale


def use_float8(blocks: Iterable[nn.Module]) -> int:
    """Turn the linear layers of the blocks into :class:`Float8Linear`, in place; how many.

    A layer with a side that is no multiple of 16 stays as it is, as do embedding and head, whose
    rounding would cost the most accuracy.
    """
    changed = 0
    for block in blocks:
        for layer in block.modules():
            if type(layer) is nn.Linear and layer.bias is None:
                sides = (layer.in_features, layer.out_features)
                if math.gcd(*sides) % FP8_MULTIPLE == 0:
                    layer.__class__ = Float8Linear
                    changed += 1
    return changed
