"""The decoder: its size, and that no position sees what comes after it."""

import pytest
import torch

from common.errors import InputError
from labs.lab1_fsdp_advanced.config import SCALES, Config
from labs.lab1_fsdp_advanced.model import Decoder, Shape, next_token_loss

SHAPE = Shape(width=16, layers=2, heads=4, context=12, vocabulary=50)


def test_the_formula_counts_the_parameters():
    counted = sum(parameter.numel() for parameter in Decoder(SHAPE).parameters())
    assert SHAPE.parameters == counted


def test_the_full_scale_has_a_billion_parameters():
    full = SCALES["full"]
    assert Shape(full.width, full.layers, full.heads, full.context).parameters > 1e9


def test_no_position_sees_what_comes_after_it():
    torch.manual_seed(0)
    model = Decoder(SHAPE)
    tokens = torch.randint(50, (2, 12))
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 50
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_an_untrained_model_knows_nothing():
    torch.manual_seed(0)
    loss = next_token_loss(Decoder(SHAPE), torch.randint(50, (8, 13)))
    assert loss.item() == pytest.approx(torch.log(torch.tensor(50.0)).item(), abs=0.1)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(InputError, match="width = 10 must be a multiple of heads = 4"):
        Shape(width=10, layers=1, heads=4, context=4)
    with pytest.raises(InputError, match="global_batch = 9"):
        Config(global_batch=9)
    with pytest.raises(InputError, match="steps = 2"):
        Config(steps=2)
