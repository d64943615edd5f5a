"""Sharding strategies on two ranks against one process."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab1_fsdp_advanced.sharding import Strategy, hybrid_shape

STRATEGIES = [str(strategy) for strategy in Strategy]


def measure(ranks):
    import torch
    from torch import nn
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor, Shard

    from labs.lab1_fsdp_advanced.sharding import Strategy, shard

    class Model(nn.Module):
        """Has weights whose first dimension is smaller than the number of ranks."""

        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 8)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))
            self.last = nn.Linear(8, 1)

        def forward(self, x):
            x = self.first(x)
            for block in self.blocks:
                x = block(x)
            return self.last(x)

    def fresh():
        torch.manual_seed(1)
        return Model()

    def sharded(parameter):
        return isinstance(parameter, DTensor) and any(
            isinstance(placement, Shard) and parameter.device_mesh.size(dim) > 1
            for dim, placement in enumerate(parameter.placements)
        )

    torch.manual_seed(0)
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    mine = slice(ranks.rank, None, ranks.world)
    alone = fresh()
    ((alone(x) - y) ** 2).mean().backward()
    answers = {}
    for strategy in Strategy:
        model = fresh()
        returned = shard(model, strategy, device="cpu", blocks=list(model.blocks))
        model = returned if isinstance(returned, nn.Module) else model
        between = [sharded(p) for p in model.parameters()]
        loss = ((model(x[mine]) - y[mine]) ** 2).mean()
        after = [sharded(p) for block in model.blocks for p in block.parameters()]
        loss.backward()
        differences = []
        for theirs, its in zip(model.parameters(), alone.parameters()):
            gradient = theirs.grad
            gradient = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
            differences.append(float((gradient - its.grad).abs().max()))
        answers[str(strategy)] = {
            "same_model": returned is model,
            "difference": max(differences),
            "sharded_between_steps": [sum(between), len(between)],
            "blocks_sharded_after_forward": [sum(after), len(after)],
            "blocks_are_groups": [isinstance(block, FSDPModule) for block in model.blocks],
            "root_is_group": isinstance(model, FSDPModule),
            "mesh": list(next(model.parameters()).device_mesh.shape),
        }
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            seen.append([str(x.dtype), str(self.linear.weight.dtype)])
            return self.linear(x)

    for strategy in (Strategy.FULL_SHARD, Strategy.NO_SHARD):
        model = nn.Sequential(Spy())
        shard(model, strategy, device="cpu", blocks=list(model), param_dtype=torch.bfloat16)
        output = model(torch.randn(2, 4))
        output.sum().backward()
        weight = next(model.parameters())
        answers[f"bf16 {strategy}"] = [*seen.pop(), str(weight.dtype), str(weight.grad.dtype)]
    return answers


@pytest.fixture(scope="module")
def answers(on_ranks):
    return on_ranks(measure)


@pytest.mark.exercise("1.1")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_compute_the_gradient_of_one_process(answers, strategy):
    """Sharding moves memory, never the mathematics: gradients equal one process's to 1e-5.

    This equivalence is the test of every distributed trainer: check it before you look at speed.
    """
    difference = answers[strategy]["difference"]
    assert difference < 1e-5, f"{strategy}: gradients differ by {difference:.3g}, limit 1e-5"


@pytest.mark.exercise("1.1")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_block_is_a_communication_group_of_its_own(answers, strategy):
    """Blocks and root are wrapped: a root alone gathers the whole model before it computes.

    The gradients are right either way, so nothing but memory and time tells you.
    """
    answer = answers[strategy]
    assert answer["root_is_group"], f"{strategy}: the model itself was not wrapped"
    assert answer["blocks_are_groups"] == [True, True], (
        f"{strategy}: blocks that are groups: {answer['blocks_are_groups']}, expected both"
    )


@pytest.mark.exercise("1.1")
@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("NO_SHARD", "none"), ("SHARD_GRAD_OP", "all"), ("FULL_SHARD", "all")],
)
def test_parameters_are_sharded_between_steps_unless_the_strategy_says_no(
    answers, strategy, expected
):
    """ZeRO-2 and 3 keep a part of each weight between steps; NO_SHARD keeps all on every rank.

    That is where the optimizer's memory goes down by the number of ranks.
    """
    count, total = answers[strategy]["sharded_between_steps"]
    wanted = total if expected == "all" else 0
    assert count == wanted, f"{strategy}: {count} of {total} weights are sharded, expected {wanted}"


@pytest.mark.exercise("1.1")
def test_only_zero_3_frees_a_block_after_its_forward_pass(answers):
    """FULL_SHARD (ZeRO-3) frees each block when it has run; SHARD_GRAD_OP (ZeRO-2) keeps it.

    ZeRO-2 saves the second all-gather and pays with the whole model in memory until the backward
    pass. With the flag the wrong way round both train well and each has the other's memory.
    """
    freed, total = answers["FULL_SHARD"]["blocks_sharded_after_forward"]
    assert freed == total, f"FULL_SHARD: {freed} of {total} block weights were freed after forward"
    freed, total = answers["SHARD_GRAD_OP"]["blocks_sharded_after_forward"]
    assert freed == 0, f"SHARD_GRAD_OP: {freed} of {total} block weights were freed after forward"


@pytest.mark.exercise("1.1")
def test_hybrid_sharding_uses_a_grid_of_replicas_and_shards(answers):
    """HYBRID_SHARD has a (replicate, shard) mesh; on two ranks of one node, (2, 1)."""
    mesh = answers["HYBRID_SHARD"]["mesh"]
    assert mesh == [2, 1], f"the mesh of HYBRID_SHARD is {mesh}, expected [2, 1]"


@pytest.mark.exercise("1.1")
@pytest.mark.parametrize("strategy", ["FULL_SHARD", "NO_SHARD"])
def test_bf16_computes_over_fp32_weights_and_fp32_gradients(answers, strategy):
    """Compute in bf16, but keep weights and summed gradients in fp32.

    A bf16 weight of 1 does not change when 0.001 is added: small updates would be lost.
    """
    inputs, weight, kept, gradient = answers[f"bf16 {strategy}"]
    assert (inputs, weight) == ("torch.bfloat16", "torch.bfloat16"), (
        f"{strategy}: the block computed with inputs {inputs} and weights {weight}"
    )
    assert (kept, gradient) == ("torch.float32", "torch.float32"), (
        f"{strategy}: weights are kept in {kept} and gradients in {gradient}"
    )


def test_shard_returns_the_model_it_was_given(answers):
    assert all(answers[name]["same_model"] for name in STRATEGIES)


@pytest.mark.parametrize(
    ("world", "local_world", "expected"),
    [(1, 1, (1, 1)), (2, 2, (2, 1)), (8, 8, (2, 4)), (3, 3, (1, 3)), (16, 8, (2, 8))],
)
def test_a_hybrid_replica_stays_on_one_node(world, local_world, expected):
    assert hybrid_shape(world, local_world) == expected


@settings(derandomize=True, deadline=None)
@given(nodes=st.integers(1, 64), local=st.integers(1, 16))
def test_the_grid_has_room_for_every_rank_once(nodes, local):
    replicas, shards = hybrid_shape(nodes * local, local)
    assert replicas * shards == nodes * local
    assert shards <= local


def test_nodes_of_different_sizes_are_refused():
    with pytest.raises(InputError, match="multiple of the ranks a node = 8"):
        hybrid_shape(12, 8)
