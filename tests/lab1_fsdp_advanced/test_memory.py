"""Counted bytes against the ZeRO formulas."""

import pytest

from labs.lab1_fsdp_advanced.memory import predicted
from labs.lab1_fsdp_advanced.sharding import Strategy


@pytest.mark.parametrize(
    ("strategy", "sharing"),
    [("NO_SHARD", 1), ("SHARD_GRAD_OP", 8), ("FULL_SHARD", 8), ("HYBRID_SHARD", 4)],
)
def test_sixteen_bytes_a_parameter_are_divided_by_the_ranks_that_share(strategy, sharing):
    expected = predicted(1_000_000, Strategy(strategy), 8, 8)
    assert expected.total == 16_000_000 // sharing
    assert expected.optimizer == 2 * expected.parameters


def count(ranks):
    from dataclasses import asdict

    import torch

    from labs.lab1_fsdp_advanced.memory import held, parameter_bytes, predicted
    from labs.lab1_fsdp_advanced.model import Decoder, Shape, next_token_loss
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard

    shape = Shape(width=16, layers=4, heads=2, context=8)
    answers = {}
    for strategy in Strategy:
        model = Decoder(shape)
        shard(model, strategy, device="cpu", blocks=list(model.blocks))
        optimizer = torch.optim.AdamW(model.parameters())
        next_token_loss(model, torch.randint(256, (2, 9))).backward()
        optimizer.step()
        counted = asdict(held(model, optimizer))
        loss = next_token_loss(model, torch.randint(256, (2, 9)))
        answers[str(strategy)] = {
            "counted": counted,
            "predicted": asdict(predicted(shape.parameters, strategy, ranks.world, 2)),
            "after_forward": parameter_bytes(model),
            "whole": 4 * shape.parameters,
        }
        loss.backward()
    return answers


def test_what_two_ranks_hold_is_what_the_formula_says(on_ranks):
    answers = on_ranks(count)
    for strategy in map(str, Strategy):
        answer = answers[strategy]
        for what, bytes_ in answer["counted"].items():
            # Dimensions that the ranks do not divide make shards of slightly different sizes.
            assert bytes_ == pytest.approx(answer["predicted"][what], rel=0.01), (strategy, what)
    whole = answers["FULL_SHARD"]["whole"]
    assert answers["SHARD_GRAD_OP"]["after_forward"] == whole
    assert answers["FULL_SHARD"]["after_forward"] < 0.85 * whole
