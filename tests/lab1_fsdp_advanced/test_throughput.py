"""FLOP accounting against torch's own counter, and against a published utilisation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.errors import InputError
from labs.lab1_fsdp_advanced.activation_checkpointing import checkpoint_blocks
from labs.lab1_fsdp_advanced.model import SIZES, Decoder, Shape, next_token_loss
from labs.lab1_fsdp_advanced.throughput import (
    PEAKS,
    hardware_flops_per_token,
    known_gpu,
    measured_peak,
    model_flops_per_token,
    peak_of,
    utilisation,
)

SHAPES = [
    Shape(width=16, layers=2, heads=4, context=8, vocabulary=50),
    Shape(width=16, layers=3, heads=4, context=24, vocabulary=10, kv_heads=1),
    Shape(width=32, layers=1, heads=2, context=12, vocabulary=70, hidden=20),
]
MPT_1_3B = Shape(
    width=2048, layers=24, heads=16, context=2048, vocabulary=50368, hidden=8 * 2048 // 3
)
"""MPT's MLP has two matrices of 4 x width; three of 8/3 x width have as many weights."""


def counted_by_torch(shape, *, checkpointing="none", backend=SDPBackend.MATH):
    """Operations a token of one training step. MATH runs attention as matrix products.

    torch does not count the fused attention of CPUs (FLASH_ATTENTION).
    """
    torch.manual_seed(0)
    model = Decoder(shape)
    checkpoint_blocks(list(model.blocks), checkpointing)
    window = torch.randint(shape.vocabulary, (2, shape.context + 1))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(backend):
        next_token_loss(model, window).backward()
    return counter.get_total_flops() / (2 * shape.context)


@pytest.mark.exercise("1.6")
def test_the_example_of_the_docstring():
    """A number small enough for paper: 872 weights that multiply, attention of 8 positions."""
    measured = model_flops_per_token(
        Shape(width=4, layers=1, heads=2, context=8, vocabulary=10), context=8
    )
    assert measured == 5616, f"{measured} operations a token, expected 6 * 872 + 12 * 8 * 4 = 5616"


@pytest.mark.exercise("1.6")
@pytest.mark.parametrize("shape", SHAPES, ids=["plain", "grouped queries", "narrow MLP"])
def test_it_is_what_torch_counts_while_it_trains(shape):
    """torch.utils.flop_counter adds up the operations of every matrix product that really runs.

    A formula that is off makes every utilisation off by the same factor, and nothing shows it: an
    embedding table that is counted flatters small models by tens of per cent.
    """
    expected = counted_by_torch(shape)
    measured = model_flops_per_token(shape, shape.context)
    assert measured == expected, (
        f"{measured:,} operations a token; one step of the model ran {expected:,.0f}"
    )


@pytest.mark.exercise("1.6")
def test_the_published_utilisation_of_mpt_1_3b_comes_out():
    """llm-foundry: 45,455 tokens a second on each H100 (989e12 operations a second) are 41.8 %.

    A utilisation is only worth something beside those of others, counted in the same way.
    """
    flops = model_flops_per_token(MPT_1_3B, context=2048)
    measured = 100 * 45_455 * flops / 989e12
    assert measured == pytest.approx(41.8, abs=0.3), (
        f"{flops:,} operations a token make {measured:.1f} %, published are 41.8 %"
    )


@pytest.mark.exercise("1.6")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(context=st.integers(1, 4096), layers=st.integers(1, 8))
def test_attention_grows_with_the_context(context, layers):
    """One more token to look back at costs 12 x layers x width more operations a token.

    Without that term long-context training looks as if its hardware slept.
    """
    shape = Shape(width=64, layers=layers, heads=4, context=8)
    grown = model_flops_per_token(shape, context + 1) - model_flops_per_token(shape, context)
    expected = 12 * layers * 64
    assert grown == expected, f"one token of context adds {grown} operations, expected {expected}"


def test_large_models_need_six_operations_a_weight():
    """The rule of thumb 6 P, which is right when width is large beside vocabulary and context."""
    shape = SIZES["8B"]
    assert model_flops_per_token(shape, 512) == pytest.approx(6 * shape.parameters, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES, ids=["plain", "grouped queries", "narrow MLP"])
def test_the_hardware_computes_what_checkpointing_repeats(shape):
    context = shape.context
    attention = 12 * shape.layers * context * shape.width
    none, selective, full = (
        hardware_flops_per_token(shape, context, mode) for mode in ("none", "selective", "full")
    )
    assert none == model_flops_per_token(shape, context)
    assert full == counted_by_torch(shape, checkpointing="full")
    fused = counted_by_torch(
        shape, checkpointing="selective", backend=SDPBackend.FLASH_ATTENTION
    )  # keeps attention, which torch does not count here
    assert selective == fused + attention
    assert none < selective < full


def test_full_checkpointing_costs_about_a_third_more():
    shape = SIZES["1.3B"]
    ratio = hardware_flops_per_token(shape, 2048, "full") / model_flops_per_token(shape, 2048)
    assert 1.2 < ratio < 4 / 3


def test_utilisation_is_a_share_of_the_peak():
    assert utilisation(1000.0, 5 * 10**9, 1e13) == pytest.approx(0.5)
    with pytest.raises(InputError, match="peak = 0 must be > 0"):
        utilisation(1.0, 1, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_data_sheet_is_found_for_that_gpu_only(name, expected):
    assert known_gpu(name) == expected


def test_every_peak_is_between_a_small_and_a_large_gpu():
    assert all(1e13 < rate < 1e16 for rates in PEAKS.values() for rate in rates.values())


def test_the_peak_of_a_cpu_is_measured():
    found = peak_of("cpu", "fp32")
    assert found.source.startswith("measured")
    assert found.flops > 1e8


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_above_what_a_product_reaches():
    found, reached = peak_of("cuda", "bf16"), measured_peak("cuda", torch.bfloat16)
    assert 0.3 * found.flops < reached < 1.05 * found.flops, (found, reached)
