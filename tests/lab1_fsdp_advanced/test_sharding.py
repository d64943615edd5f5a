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
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

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

    class Allocations(TorchDispatchMode):
        """Memory on the CPU behind the results of operations; kept, so that no address returns."""

        def __init__(self):
            super().__init__()
            self.seen = {}

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for made in tree_leaves(result):
                local = made.to_local() if isinstance(made, DTensor) else made
                if isinstance(local, torch.Tensor) and local.device.type == "cpu":
                    self.seen[local.untyped_storage().data_ptr()] = local.untyped_storage()
            return result

        def bytes(self):
            return sum(storage.nbytes() for storage in self.seen.values())

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(3))

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    policy = CPUOffloadPolicy(pin_memory=False)
    cases = [(str(strategy), strategy, None) for strategy in Strategy]
    cases += [("FULL_SHARD offload", Strategy.FULL_SHARD, policy)]
    cases += [("NO_SHARD offload", Strategy.NO_SHARD, policy)]
    torch.manual_seed(2)
    alone = Wide()
    wide = torch.randn(8, 64)
    alone(wide).square().mean().backward()
    for name, strategy, offload in cases:
        with torch.device("meta"):
            model = Wide()
        with Allocations() as made:
            shard(model, strategy, device="cpu", blocks=list(model.blocks), offload=offload)
        answer = {
            "meta": sum(p.is_meta for p in model.parameters()),
            "allocated": made.bytes(),
            "whole": 3 * 64 * 64 * 4,
        }
        if not answer["meta"]:
            for theirs, its in zip(model.parameters(), alone.parameters()):
                value = distribute_tensor(its.detach(), theirs.device_mesh, theirs.placements)
                theirs.detach().copy_(value)
            model(wide[mine]).square().mean().backward()
            answer["difference"] = max(
                float((theirs.grad.full_tensor() - its.grad).abs().max())
                for theirs, its in zip(model.parameters(), alone.parameters())
            )
        answers[f"meta {name}"] = answer
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
    [("NO_SHARD", "none"), ("ZERO_1", "all"), ("SHARD_GRAD_OP", "all"), ("FULL_SHARD", "all")],
)
def test_parameters_are_sharded_between_steps_unless_the_strategy_says_no(
    answers, strategy, expected
):
    """ZeRO keeps a part of each weight between steps; NO_SHARD keeps all on every rank.

    That is where the optimizer's memory goes down by the number of ranks.
    """
    count, total = answers[strategy]["sharded_between_steps"]
    wanted = total if expected == "all" else 0
    assert count == wanted, f"{strategy}: {count} of {total} weights are sharded, expected {wanted}"


@pytest.mark.exercise("1.1")
def test_only_zero_3_frees_a_block_after_its_forward_pass(answers):
    """FULL_SHARD (ZeRO-3) frees each block when it has run; ZeRO-1 and 2 keep it.

    They save the second all-gather and pay with the whole model in memory until the backward pass.
    With the flag the wrong way round all train well and each has the other's memory.
    """
    for strategy, freed_of in (("FULL_SHARD", 1), ("SHARD_GRAD_OP", 0), ("ZERO_1", 0)):
        freed, total = answers[strategy]["blocks_sharded_after_forward"]
        assert freed == freed_of * total, (
            f"{strategy}: {freed} of {total} block weights were freed after forward, expected "
            f"{freed_of * total}"
        )


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


@pytest.mark.exercise("1.1")
@pytest.mark.parametrize("case", [*STRATEGIES, "FULL_SHARD offload", "NO_SHARD offload"])
def test_a_model_from_meta_gets_memory_after_it_is_sharded(answers, case):
    """Shapes first, then shards, then memory: filled with the same weights it is the same model.

    Only so can a model be trained that no single device can hold.
    """
    answer = answers[f"meta {case}"]
    assert answer["meta"] == 0, f"{case}: {answer['meta']} weights are still on meta"
    assert answer["difference"] < 1e-5, (
        f"{case}: gradients differ by {answer['difference']:.3g}, limit 1e-5"
    )


@pytest.mark.exercise("1.1")
@pytest.mark.parametrize("strategy", ["ZERO_1", "SHARD_GRAD_OP", "FULL_SHARD"])
def test_no_rank_ever_holds_a_whole_model_from_meta(answers, strategy):
    """Each rank allocates its half. A model materialised first needs all of it on every rank.

    With 8 billion weights that is 32 GB before the first shard is made.
    """
    answer = answers[f"meta {strategy}"]
    half = answer["whole"] / 2
    assert answer["allocated"] == pytest.approx(half, rel=0.1), (
        f"{strategy}: {answer['allocated']:,} bytes were allocated, expected the {half:,.0f} of "
        f"this rank's shards; the whole model has {answer['whole']:,}"
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
