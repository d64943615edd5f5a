"""The decoder: its size, its attention, its initialisation, and that nothing sees the future."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab1_fsdp_advanced.model import (
    SIZES,
    Attention,
    Decoder,
    Shape,
    Turns,
    next_token_loss,
    rotate,
)

SHAPE = Shape(width=16, layers=2, heads=4, context=12, vocabulary=50, kv_heads=2)


def decoder(shape: Shape = SHAPE, seed: int = 0) -> Decoder:
    model = Decoder(shape)
    model.init_weights(seed)
    return model


def counted(shape: Shape) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(shape).parameters())


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    head_width=st.integers(1, 5).map(lambda half: 2 * half),
    kv_heads=st.integers(1, 3),
    sharing=st.integers(1, 3),
    layers=st.integers(1, 3),
    vocabulary=st.integers(1, 40),
    hidden=st.none() | st.integers(1, 50),
)
def test_the_formula_counts_the_parameters(
    head_width, kv_heads, sharing, layers, vocabulary, hidden
):
    heads = kv_heads * sharing
    shape = Shape(head_width * heads, layers, heads, 8, vocabulary, kv_heads, hidden)
    assert shape.parameters == counted(shape)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_has_about_the_parameters_in_its_name(name):
    units = {"M": 1e6, "B": 1e9}
    promised = float(name[:-1]) * units[name[-1]]
    tolerance = 0.15 if promised < 1e6 else 0.05
    assert SIZES[name].parameters == pytest.approx(promised, rel=tolerance)
    assert counted(SIZES[name]) == SIZES[name].parameters


def test_sizes_of_a_billion_have_a_billion():
    assert SIZES["1B"].parameters > 1e9
    assert SIZES["8B"].parameters == 8_030_261_248, "Llama 3 8B"


def test_no_position_sees_what_comes_after_it():
    torch.manual_seed(0)
    model = decoder()
    tokens = torch.randint(50, (2, 12))
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 50
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_an_untrained_model_knows_nothing():
    torch.manual_seed(0)
    loss = next_token_loss(decoder(), torch.randint(50, (8, 13)))
    assert loss.item() == pytest.approx(math.log(50), abs=0.02)


def test_the_loss_is_that_of_the_next_token():
    """Position i is scored on token i + 1: a target that is off by one trains a copier."""
    torch.manual_seed(0)
    model, window = decoder(), torch.randint(50, (3, 6))
    scores = model(window[:, :-1]).log_softmax(-1)
    rows = [-scores[b, i, window[b, i + 1]] for b in range(3) for i in range(5)]
    assert next_token_loss(model, window).item() == pytest.approx(torch.stack(rows).mean().item())


def test_a_query_head_reads_the_key_and_value_head_of_its_group():
    """Attention written out: 4 query heads, 2 key/value heads, softmax over what is not later."""
    torch.manual_seed(0)
    attention, x = Attention(SHAPE), torch.randn(2, 5, 16)
    turns = Turns(5, 4, x.device)

    def heads(layer):
        return rotate(layer(x).view(2, 5, -1, 4).transpose(1, 2), turns)

    query, key = heads(attention.query), heads(attention.key)
    value = attention.value(x).view(2, 5, -1, 4).transpose(1, 2)
    mixed = []
    for head in range(4):
        scores = query[:, head] @ key[:, head // 2].transpose(1, 2) / math.sqrt(4)
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        mixed.append(scores.softmax(-1) @ value[:, head // 2])
    torch.testing.assert_close(attention(x, turns), attention.out(torch.cat(mixed, dim=-1)))


def test_rotary_positions_tell_distances_only():
    """The product of a query and a key is the same for every pair at the same distance."""
    torch.manual_seed(0)
    turns = Turns(10, 8, torch.device("cpu"))
    query, key = (rotate(torch.randn(8).expand(1, 1, 10, 8), turns)[0, 0] for _ in range(2))
    scores = query @ key.T
    for distance in range(-9, 10):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))
    assert (scores[0, 1] - scores[1, 0]).abs() > 1e-3, "before and after must differ"
    torch.testing.assert_close(query.norm(dim=1), query[0].norm().expand(10))


def test_the_seed_alone_makes_the_weights():
    torch.manual_seed(5)
    first = decoder(seed=1).state_dict()
    torch.manual_seed(6)
    again, other = decoder(seed=1).state_dict(), decoder(seed=2).state_dict()
    for name, weight in first.items():
        assert torch.equal(weight, again[name]), name
        assert weight.ndim < 2 or not torch.equal(weight, other[name]), name


def test_initial_deviations_keep_the_residual_stream_level():
    shape = Shape(width=128, layers=8, heads=4, context=8, vocabulary=64)
    for name, weight in decoder(shape).named_parameters():
        if weight.ndim < 2:
            assert torch.equal(weight, torch.ones_like(weight)), name
            continue
        residual = name.endswith(("out.weight", "down.weight"))
        expected = 0.02 / math.sqrt(2 * shape.layers) if residual else 0.02
        assert weight.std().item() == pytest.approx(expected, rel=0.05), name


def test_it_learns_a_sequence_by_heart():
    torch.manual_seed(0)
    model, window = decoder(), torch.randint(50, (4, 13))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = next_token_loss(model, window)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10}, "width = 10 must be a multiple of 2 x heads = 8"),
        ({"width": 12}, "width = 12 must be a multiple of 2 x heads = 8"),
        ({"kv_heads": 3}, "kv_heads = 3 must divide heads = 4"),
        ({"kv_heads": 0}, "kv_heads = 0 must be at least 1"),
        ({"hidden": 0}, "hidden = 0 must be at least 1"),
        ({"layers": 0}, "layers = 0 must be at least 1"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(options, message):
    given = {"width": 16, "layers": 1, "heads": 4, "context": 4} | options
    with pytest.raises(InputError, match=message):
        Shape(**given)


def test_fsdp_leaves_the_positions_in_full_precision():
    """FSDP casts the tensors that a block is given to bf16: positions above 256 would merge."""
    from torch.distributed.utils import _apply_to_tensors

    given = (torch.randn(3), Turns(2048, 8, torch.device("cpu")))
    x, turns = _apply_to_tensors(lambda tensor: tensor.to(torch.bfloat16), given)
    assert (x.dtype, turns.cos.dtype, turns.sin.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )
    angle = torch.tensor([2047.0 * 10_000 ** (-i / 4) for i in range(4)], dtype=torch.float64)
    torch.testing.assert_close(turns.cos[-1].double(), angle.cos(), atol=2e-4, rtol=0)
