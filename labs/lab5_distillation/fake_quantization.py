"""Fake quantization: round in the forward pass, and let the gradient through as if it had not been.

A fake-quantized value is still a float, but one of the few that an integer code can stand for. The
arithmetic is that of ONNX Runtime's dynamic INT8: weights symmetric int8 with a scale an output
channel, activations affine uint8 with one scale and zero point for the whole tensor, look-up tables
affine uint8 with one scale. So what is trained is what will run.

``prepare`` puts it into a student, ``strip`` takes it out again. torchao does the same with other
conventions (`prepare_with_torchao`); ``torch.ao.quantization`` still runs and is deprecated for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab5_distillation.encoders import TextClassifier, clone

Scales = Literal["maximum", "least_error", "learned"]


@dataclass(frozen=True)
class Codes:
    """The integers from ``low`` to ``high``, both included; zero is one of them."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not self.low <= 0 <= self.high or self.low == self.high:
            raise InputError(f"codes {self.low} to {self.high} must hold 0 and one more")

    @property
    def symmetric(self) -> bool:
        """Whether as many codes are negative as positive; then code 0 stands for 0.0."""
        return self.low == -self.high


def signed(bits: int, *, reduce_range: bool = False) -> Codes:
    """Symmetric codes: -127 to 127 for 8 bits, -7 to 7 for 4, -1 to 1 for 2.

    ``reduce_range`` gives a bit away, as ONNX Runtime does for CPUs that add pairs of u8 x s8
    products in 16 bits: -64 to 64 for 8 bits.
    """
    require(2 <= bits <= 8, "bits", bits, "must be from 2 to 8")
    high = 2 ** (bits - 2) if reduce_range else 2 ** (bits - 1) - 1
    return Codes(-high, high)


def unsigned(bits: int) -> Codes:
    """0 to 255 for 8 bits."""
    require(2 <= bits <= 8, "bits", bits, "must be from 2 to 8")
    return Codes(0, 2**bits - 1)


@exercise(
    "5.18",
    points=10,
    title="Scales and zero points, one for each channel",
    hint="n codes have n - 1 steps between them. Zero must be one of the values: widen the range "
    "to hold it, and round the zero point to an integer. Which scale does a channel of zeros get?",
)
def quantization_parameters(
    values: Tensor, codes: Codes, axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """Scale s and zero point z with which codes q stand for ``s * (q - z)``.

    With the range [l, h] of the values of a channel, widened to hold 0:
    ``s = (h - l) / (codes.high - codes.low)`` and ``z = round(codes.low - l / s)``. Where the codes
    are symmetric, so is the range: it becomes [-m, m] with ``m = max(-l, h)``, and z is 0.

    Parameters
    ----------
    values
        Float tensor of any shape.
    axis
        The axis of the channels; one scale and zero point for each. None: one for all values.

    Returns
    -------
    scale, zero_point
        Floats, of the number of axes of ``values`` and of size 1 on all but ``axis``, so that both
        broadcast against ``values``; 0-dimensional for ``axis=None``. Zero points are whole numbers
        from ``codes.low`` to ``codes.high``. A channel of zeros gets scale 1 and zero point 0.

    Notes
    -----
    Jacob et al., CVPR 2018, equation 1 and section 3.1; Krishnamoorthi 2018, sections 2.1 and 3.1.

    Examples
    --------
    >>> quantization_parameters(torch.tensor([0.5, 2.55]), unsigned(8))  # 0.01 and 0
    """
    if axis is None:
        low, high = values.amin(), values.amax()
    else:
        others = [each for each in range(values.ndim) if each != axis % values.ndim]
        low, high = values.amin(others, keepdim=True), values.amax(others, keepdim=True)
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if codes.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scale = (high - low) / (codes.high - codes.low)
    empty = scale < torch.finfo(scale.dtype).tiny  # so small that dividing by it overflows
    scale = torch.where(empty, 1.0, scale)
    zero_point = torch.where(empty, 0.0, (codes.low - low / scale).round())
    return scale, zero_point


def quantize(values: Tensor, scale: Tensor, zero_point: Tensor | float, codes: Codes) -> Tensor:
    """Codes of values, as floats; what lies outside saturates. Halves are rounded to even."""
    return ((values / scale).round() + zero_point).clamp(codes.low, codes.high)


@exercise(
    "5.17",
    points=10,
    title="Fake quantization with a straight-through estimator",
    hint="round has gradient zero everywhere. x + (y - x).detach() has the value of y and the "
    "gradient of x. Where the code saturates, another x would give the same y: no gradient there.",
)
def fake_quantize(
    values: Tensor, scale: Tensor, zero_point: Tensor | float, codes: Codes
) -> Tensor:
    """The values that the codes of ``values`` stand for, differentiable.

    Forward: ``q = clip(round(x / s) + z, codes.low, codes.high)``, then ``s * (q - z)``; halves are
    rounded to even.
    Backward: 1 where ``round(x / s) + z`` is one of the codes, 0 where it was clipped (the
    straight-through estimator). Scale and zero point get no gradient.

    Parameters
    ----------
    values
        Float tensor of any shape.
    scale, zero_point
        Broadcast against ``values``; see `quantization_parameters`.

    Returns
    -------
    Tensor
        As ``values``.

    Notes
    -----
    Bengio, Leonard, Courville (2013), arXiv 1308.3432, section 4; Jacob et al., CVPR 2018,
    section 3. The same as ``torch.fake_quantize_per_channel_affine``.
    """
    with torch.no_grad():
        unclipped = (values / scale).round() + zero_point
        rounded = scale * (unclipped.clamp(codes.low, codes.high) - zero_point)
        inside = (unclipped >= codes.low) & (unclipped <= codes.high)
    passing = torch.where(inside, values, values.detach())
    return passing + (rounded - passing).detach()


def learned_step(values: Tensor, step: Tensor, codes: Codes) -> Tensor:
    """Fake quantization whose scale is learned (LSQ), without a zero point.

    ``s * round(clip(x / s, codes.low, codes.high))`` with straight-through rounding. The step's
    gradient is ``round(x / s) - x / s`` inside and the code where it clips, times
    ``1 / sqrt(n * codes.high)`` with n values a step, which makes it as large as a weight's.

    Parameters
    ----------
    step
        Positive, broadcasts against ``values``.

    Notes
    -----
    Esser et al., Learned Step Size Quantization, ICLR 2020, equations 1 to 3 and section 2.2.
    """
    factor = (values.numel() / step.numel() * codes.high) ** -0.5
    scaled = step * factor + (step - step * factor).detach()
    steps = (values / scaled).clamp(codes.low, codes.high)
    return scaled * (steps + (steps.round() - steps).detach())


@torch.no_grad()
def least_error_step(weight: Tensor, codes: Codes, *, candidates: int = 60) -> Tensor:
    """The scale [out, 1] of each row [out, in] whose rounding has the least squared error.

    Tried are shares of the scale that the row's maximum gives, from 1 down to a few per cent. A few
    large weights are clipped for finer steps everywhere else: at 8 bits hardly any, at 2 bits many.
    """
    full, _ = quantization_parameters(weight, codes, axis=0)
    best, least = full.clone(), torch.full_like(full, torch.inf)
    for share in torch.linspace(1, 0, candidates + 1)[:-1].tolist():
        step = share * full
        rounded = step * quantize(weight, step, 0.0, codes)
        error = (rounded - weight).square().sum(1, keepdim=True)
        best = torch.where(error < least, step, best)
        least = torch.minimum(error, least)
    return best


@dataclass(frozen=True)
class Scheme:
    """What is rounded, and to how many bits. The default is ONNX Runtime's dynamic INT8.

    Attributes
    ----------
    weight_bits
        Of the encoder's linear maps, 2 to 8; a scale for each output channel.
    activation_bits
        Of their inputs, 8; None leaves them as they are (weight-only).
    head_bits
        Of the last linear map's weights, whose errors nothing comes after to repair.
    embeddings
        Round the look-up tables to 8 bits, one scale a table.
    reduce_range
        7 bits for weights, for CPUs without an integer dot product.
    scales
        Of the encoder's weights. ``"maximum"``: from the largest weight of each row, as ONNX
        Runtime takes them. ``"least_error"``: `least_error_step`, once. ``"learned"``: from there
        on, `learned_step`.
    """

    weight_bits: int = 8
    activation_bits: int | None = 8
    head_bits: int = 8
    embeddings: bool = True
    reduce_range: bool = False
    scales: Scales = "maximum"


INT8 = Scheme()


def weight_only(bits: int, scales: Scales = "maximum") -> Scheme:
    """Weights of few bits, activations in float32."""
    return Scheme(weight_bits=bits, activation_bits=None, scales=scales)


class FakeQuantLinear(nn.Linear):
    """A linear map that multiplies rounded inputs by rounded weights.

    It holds the parameters of the map it was made from: what learns is the float weight behind the
    rounded one. ``step`` [out, 1] is None where the scales follow the maxima.
    """

    step: nn.Parameter | None

    def __init__(
        self,
        linear: nn.Linear,
        weight_codes: Codes,
        input_codes: Codes | None,
        scales: Scales = "maximum",
    ) -> None:
        super().__init__(
            linear.in_features, linear.out_features, linear.bias is not None, device="meta"
        )
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_codes, self.input_codes = weight_codes, input_codes
        self.register_parameter("step", None)
        if scales != "maximum":
            first = least_error_step(self.weight, weight_codes)
            self.step = nn.Parameter(first, requires_grad=scales == "learned")

    @torch.no_grad()
    def stored(self) -> tuple[Tensor, Tensor]:
        """What a file holds: codes int8 [out, in] and scales float32 [out]."""
        if self.step is not None:
            scale = self.step.detach().clone()
        else:
            scale, _ = quantization_parameters(self.weight, self.weight_codes, axis=0)
        codes = quantize(self.weight, scale, 0.0, self.weight_codes)
        return codes.to(torch.int8), scale[:, 0]

    def rounded_weight(self) -> Tensor:
        """The weights [out, in] that the codes stand for, differentiable."""
        if self.step is not None:
            return learned_step(self.weight, self.step, self.weight_codes)
        with torch.no_grad():
            scale, zero = quantization_parameters(self.weight, self.weight_codes, axis=0)
        return fake_quantize(self.weight, scale, zero, self.weight_codes)

    def forward(self, input: Tensor) -> Tensor:
        if self.input_codes is not None:
            with torch.no_grad():
                scale, zero = quantization_parameters(input, self.input_codes)
            input = fake_quantize(input, scale, zero, self.input_codes)
        return F.linear(input, self.rounded_weight(), self.bias)

    def plain(self) -> nn.Linear:
        """A linear map with the float weights."""
        made = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        made.weight, made.bias = self.weight, self.bias
        return made


class FakeQuantEmbedding(nn.Embedding):
    """A look-up in a rounded table: 8 bits, one scale and zero point for the table."""

    def __init__(self, table: nn.Embedding, codes: Codes) -> None:
        super().__init__(
            table.num_embeddings, table.embedding_dim, table.padding_idx, device="meta"
        )
        self.weight, self.codes = table.weight, codes

    def forward(self, input: Tensor) -> Tensor:
        with torch.no_grad():
            scale, zero = quantization_parameters(self.weight, self.codes)
        return fake_quantize(super().forward(input), scale, zero, self.codes)

    def plain(self) -> nn.Embedding:
        """A look-up in the float table."""
        made = nn.Embedding(
            self.num_embeddings, self.embedding_dim, self.padding_idx, device="meta"
        )
        made.weight = self.weight
        return made


def prepare(student: TextClassifier, scheme: Scheme = INT8) -> TextClassifier:
    """A copy of a student that computes with rounded weights, tables and activations.

    Names of parameters stay, so optimizers and checkpoints find them where they were.

    Raises
    ------
    InputError
        The student is prepared already.
    """
    if any(isinstance(each, FakeQuantLinear) for each in student.modules()):
        raise InputError("the student has fake quantization already; strip it first")
    copied = clone(student)
    inputs = None if scheme.activation_bits is None else unsigned(scheme.activation_bits)
    for parent, name, child in _children(copied):
        if isinstance(child, nn.Embedding) and scheme.embeddings:
            setattr(parent, name, FakeQuantEmbedding(child, unsigned(8)))
        elif isinstance(child, nn.Linear):
            last = child is copied.head
            bits = scheme.head_bits if last else scheme.weight_bits
            codes = signed(bits, reduce_range=scheme.reduce_range)
            scales = "maximum" if last else scheme.scales
            setattr(parent, name, FakeQuantLinear(child, codes, inputs, scales))
    return copied


def strip(student: TextClassifier) -> TextClassifier:
    """A copy without fake quantization: plain modules, and the float weights that learned.

    Rounded again with the scales of their maxima they give the codes that were trained, unless the
    scales were others (`Scheme.scales`): then only the prepared student knows its codes.
    """
    copied = clone(student)
    for parent, name, child in _children(copied):
        if isinstance(child, FakeQuantLinear | FakeQuantEmbedding):
            setattr(parent, name, child.plain())
    return copied


def _children(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    return [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in list(parent.named_children())
    ]


def prepare_with_torchao(student: TextClassifier, bits: int = 8) -> TextClassifier:
    """`prepare` by torchao: its configuration that comes nearest.

    Two of its conventions differ. A weight's codes are -128 to 127 with scale ``max / 127.5``, and
    activations get a scale for each *token*, which PyTorch's kernels for int8 compute and ONNX
    Runtime's do not. Tables stay float. Train with it what torchao will run.
    """
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    dtype = {8: torch.int8, 4: torch.int4}.get(bits)  # type: ignore[attr-defined]
    require(dtype is not None, "bits", bits, "must be 8 or 4 here")
    copied = clone(student)
    config = QATConfig(
        activation_config=IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False),
        weight_config=IntxFakeQuantizeConfig(dtype, "per_channel"),
        step="prepare",
    )
    quantize_(copied, config)
    return copied
