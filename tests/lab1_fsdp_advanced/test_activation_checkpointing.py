"""Activation checkpointing: the same numbers from less memory, block by block."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from common.errors import InputError
from labs.lab1_fsdp_advanced.activation_checkpointing import checkpoint_blocks

BLOCKS, BATCH, LENGTH, WIDTH = 4, 4, 32, 32
INPUT_BYTES = 4 * BATCH * LENGTH * WIDTH


class Block(nn.Module):
    """Attention without weights, two products and dropout."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.dropout = nn.Dropout(0.3)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        heads = x.unflatten(-1, (2, -1)).transpose(1, 2)
        seen = F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        x = x + seen.transpose(1, 2).flatten(2)
        return x + self.down(self.dropout(F.gelu(self.up(x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def build(mode):
    torch.manual_seed(0)
    model = Model()
    checkpoint_blocks(list(model.blocks), mode)
    return model


def inputs():
    return torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def trained(mode):
    """Output and gradients of one pass with dropout; the input itself needs no gradient."""
    model = build(mode)
    torch.manual_seed(2)
    output = model(inputs())
    if output.requires_grad:
        output.square().mean().backward()
    return output.detach(), {name: p.grad for name, p in model.named_parameters()}


def events(mode):
    """What one step does: ("forward", i) when block i computes, ("backward", i) when it is done."""
    model, log = build(mode), []
    for place, block in enumerate(model.blocks):
        # The first thing in a block: a recomputation may stop before the last one.
        block.up.register_forward_pre_hook(lambda *_, i=place: log.append(("forward", i)))
        block.up.weight.register_hook(lambda _, i=place: log.append(("backward", i)))
    output = model(inputs())
    first = len(log)
    output.square().mean().backward()
    return log[:first], log[first:]


@pytest.fixture(scope="module")
def held():
    """Bytes that a forward pass leaves for the backward pass, by mode."""
    found = {}
    for mode in ("none", "selective", "full"):
        model, x = build(mode), inputs()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            output = model(x)
        found[mode] = sum(event.self_cpu_memory_usage for event in profiled.key_averages())
        del output
    return found


@pytest.mark.exercise("1.12")
@pytest.mark.parametrize("mode", ["full", "selective"])
def test_the_output_is_the_same_as_without(mode):
    """Checkpointing is about memory only: the forward pass gives the same numbers, bit for bit."""
    expected, measured = trained("none")[0], trained(mode)[0]
    difference = (measured - expected).abs().max().item()
    assert difference == 0, f"{mode}: outputs differ by {difference:.3g}, expected none"


@pytest.mark.exercise("1.12")
@pytest.mark.parametrize("mode", ["full", "selective"])
def test_the_gradients_are_the_same_as_without(mode):
    """Dropout included: both passes must drop the same elements, or gradients are of another model.

    Nothing fails when they do not: the loss is right, its gradient is noise. Gradients that are
    None come from the reentrant form, when the input of a block needs no gradient.
    """
    expected, measured = trained("none")[1], trained(mode)[1]
    missing = [name for name, gradient in measured.items() if gradient is None]
    assert not missing, f"{mode}: no gradient reached {missing}"
    difference = max((measured[name] - expected[name]).abs().max().item() for name in expected)
    assert difference == 0, f"{mode}: gradients differ by {difference:.3g}, expected none"


@pytest.mark.exercise("1.12")
@pytest.mark.parametrize("mode", ["full", "selective"])
def test_each_block_is_computed_once_more_and_alone(mode):
    """The backward pass recomputes a block, ends its gradients, and only then turns to the next.

    One checkpoint around all blocks computes as much again but holds the activations of all of
    them at once: the peak is as high as without.
    """
    forward, backward = events(mode)
    assert forward == [("forward", i) for i in range(BLOCKS)], (
        f"{mode}: the forward pass did {forward}, expected each block once, in order"
    )
    expected = [(what, i) for i in reversed(range(BLOCKS)) for what in ("forward", "backward")]
    assert backward == expected, f"{mode}: the backward pass did {backward}, expected {expected}"


@pytest.mark.exercise("1.12")
def test_without_checkpointing_a_block_stays_as_it_is():
    """mode = none: nothing is computed twice and ``forward`` is the block's own."""
    forward, backward = events("none")
    again = [event for event in backward if event[0] == "forward"]
    assert len(forward) == BLOCKS, f"the forward pass did {forward}, expected each block once"
    assert not again, f"the backward pass computed again: {again}, expected nothing"
    assert build("none").blocks[0].forward.__func__ is Block.forward, "forward was replaced"


@pytest.mark.exercise("1.12")
def test_full_keeps_little_more_than_the_input_of_each_block(held):
    """That is the point: n inputs instead of all that n blocks computed."""
    limit = 1.5 * (BLOCKS + 1) * INPUT_BYTES
    assert held["full"] < limit, (
        f"full holds {held['full']:,} bytes after the forward pass, expected less than {limit:,.0f}"
        f" for {BLOCKS} blocks with inputs of {INPUT_BYTES:,} bytes; none holds {held['none']:,}"
    )


@pytest.mark.exercise("1.12")
def test_selective_holds_more_than_full_and_less_than_none(held):
    """It keeps attention and every second product, and computes the cheap rest again.

    Long contexts need that: attention is the dearest to repeat and small to hold.
    """
    full, selective, none = held["full"], held["selective"], held["none"]
    assert 1.3 * full < selective < 0.8 * none, (
        f"bytes after the forward pass: full {full:,}, selective {selective:,}, none {none:,}; "
        "selective is expected well between the two"
    )


@pytest.mark.exercise("1.12")
@pytest.mark.parametrize("mode", ["none", "full", "selective"])
def test_names_in_a_checkpoint_stay(mode):
    """A wrapper around a block would rename its weights: no earlier checkpoint could be read."""
    expected, measured = list(Model().state_dict()), list(build(mode).state_dict())
    assert measured == expected, f"{mode}: names {measured[:3]} ..., expected {expected[:3]} ..."


@pytest.mark.exercise("1.12")
def test_another_mode_is_refused():
    """A misspelt mode that means none runs out of memory an hour later, on the cluster."""
    message = "nothing was raised"
    try:
        checkpoint_blocks([Block()], "ful")
    except InputError as error:
        message = str(error)
    assert "ful" in message, f"mode = 'ful': {message}, expected an InputError that names it"


class Counting(TorchDispatchMode):
    """Counts the operations that are computed: below it, nothing is taken from a cache."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function).split(".")[1]] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("mode", "attention", "products"), [("none", 0, 0), ("selective", 0, 0), ("full", 1, 1)]
)
def test_what_a_block_computes_again(mode, attention, products):
    """Of attention and two products: full stops before the last one, selective keeps the first."""
    output = build(mode)(inputs())
    with Counting() as backward:
        output.square().mean().backward()
    kernel = "_scaled_dot_product_flash_attention_for_cpu"
    assert backward.counts[kernel] == attention * BLOCKS
    # Each product has two in the backward pass, the very first one: its input needs no gradient.
    assert backward.counts["mm"] - (4 * BLOCKS - 1) == products * BLOCKS


def test_checkpointing_without_gradients_computes_once():
    model, calls = build("full"), []
    model.blocks[0].up.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(inputs())
    assert len(calls) == 1
