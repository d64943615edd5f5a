"""ZeRO-1 by hand on groups of 1 to 4 ranks, against AdamW in one process."""

import pytest
import torch
from torch import nn

from common.errors import InputError
from labs.lab1_fsdp_advanced.zero import check_params

WORLDS = ("1", "2", "3", "4")
LIMIT = 1e-6


def measure(ranks):
    from copy import deepcopy

    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.optim import SGD, AdamW
    from torch.optim.lr_scheduler import StepLR

    from common.errors import InputError
    from labs.lab1_fsdp_advanced.traffic import Traffic
    from labs.lab1_fsdp_advanced.zero import ZeroOneOptimizer

    options = {"lr": 0.01, "weight_decay": 0.1}

    def chain(seed=0):
        """72 + 21 = 93 weights: divisible by 3, by neither 2 nor 4."""
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2), nn.Linear(2, 1))

    def flat(model):
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss_fn(model, x, y):
        return ((model(x) - y) ** 2).mean()

    def batch(step):
        drawn = torch.Generator().manual_seed(step)
        return torch.randn(24, 8, generator=drawn), 3 * torch.randn(24, 1, generator=drawn)

    def state_numel(optimizer):
        """Elements of all moments that an optimizer holds on this rank."""
        states = [v for state in optimizer.state.values() for v in state.values()]
        return sum(v.numel() for v in states if isinstance(v, torch.Tensor) and v.ndim > 0)

    def train(optimizer_class, steps, size, group, member):
        """What rank 0 of ``size`` sees of some steps, beside one process."""
        alone = chain()
        theirs = optimizer_class(alone.parameters(), **options)
        # Every rank begins with weights of its own; those of the first must win.
        model, real = chain(seed=member), chain()
        parameters = list(model.parameters())
        zero = ZeroOneOptimizer(model.parameters(), optimizer_class, group=group, **options)
        redundancy = ZeroRedundancyOptimizer(
            real.parameters(), optimizer_class, process_group=group, **options
        )
        row = {"weights": [], "redundancy": [], "drift": [], "calls": [], "volume": []}
        for step in range(steps):
            x, y = batch(step)
            for optimizer in (theirs, zero, redundancy):
                optimizer.zero_grad()
            loss_fn(alone, x, y).backward()
            # Two micro-batches, summed by autograd: nothing is sent before the step.
            for half in (slice(0, 12), slice(12, 24)):
                mine = x[half][member::size], y[half][member::size]
                (loss_fn(model, *mine) / 2).backward()
            loss_fn(real, x[member::size], y[member::size]).backward()
            for parameter in real.parameters():
                dist.all_reduce(parameter.grad, group=group)
                parameter.grad /= size
            theirs.step()
            redundancy.step()
            with Traffic() as traffic:
                zero.step()
            weights = flat(model)
            low, high = weights.clone(), weights.clone()
            dist.all_reduce(low, dist.ReduceOp.MIN, group=group)
            dist.all_reduce(high, dist.ReduceOp.MAX, group=group)
            row["weights"].append(float((weights - flat(alone)).abs().max()))
            row["redundancy"].append(float((weights - flat(real)).abs().max()))
            row["drift"].append(float((high - low).max()))
            row["calls"].append(dict(traffic.calls))
            row["volume"].append(traffic.volume)
        pairs = zip(parameters, chain().parameters())
        moved = [float((after - before).abs().max().detach()) for after, before in pairs]
        states = torch.tensor(float(state_numel(zero.optimizer)))
        dist.all_reduce(states, dist.ReduceOp.MAX, group=group)
        return row | {
            "same_parameters": all(a is b for a, b in zip(parameters, model.parameters())),
            "moved": moved,
            "state": float(states),
            "state_bytes": zero.state_bytes(),
            "whole": state_numel(theirs),
            "numel": len(weights),
            "shapes": [list(zero.flat.shape), list(zero.shard.shape)],
        }

    groups = {size: dist.new_group(list(range(size))) for size in (4, 3, 2, 1)}
    # Largest first: what fails at once fails on all ranks, and none reports only a lost neighbour.
    dist.barrier()
    answers = {}
    for size, group in groups.items():
        if ranks.rank < size:
            answers[str(size)] = train(AdamW, 20, size, group, ranks.rank)
            answers[f"{size} SGD"] = train(SGD, 3, size, group, ranks.rank)
    if ranks.rank > 0:
        return {}

    # What is left needs no other rank.
    alone = dist.new_group([0], use_local_synchronization=True)
    frozen = chain()
    frozen[0].requires_grad_(False)
    before = flat(frozen[0])
    zero = ZeroOneOptimizer(frozen.parameters(), SGD, group=alone, lr=0.1)
    loss_fn(frozen, *batch(0)).backward()
    zero.step()
    answers["frozen"] = {
        "moved": float((flat(frozen[0]) - before).abs().max()),
        "numel": zero.flat.numel(),
    }
    model, same = chain(), chain()
    zero = ZeroOneOptimizer(model.parameters(), AdamW, group=alone, **options)
    schedule = StepLR(zero.optimizer, 1, gamma=0.5)
    loss_fn(model, *batch(0)).backward()
    zero.step()
    schedule.step()
    answers["lr"] = zero.optimizer.param_groups[0]["lr"]
    # A state dict of torch shares the moments with its optimizer.
    saved, weights = deepcopy(zero.state_dict()), flat(model)
    again = ZeroOneOptimizer(same.parameters(), AdamW, group=alone, **options)
    with torch.no_grad():
        again.flat.copy_(weights)
    again.load_state_dict(saved)
    for each, optimizer in ((model, zero), (same, again)):
        optimizer.zero_grad()
        loss_fn(each, *batch(1)).backward()
        optimizer.step()
    answers["resumed"] = float((flat(model) - flat(same)).abs().max())
    try:
        again.load_state_dict({**saved, "world": 8})
        answers["refused"] = "nothing was raised"
    except InputError as error:
        answers["refused"] = str(error)
    return answers


@pytest.fixture(scope="module")
def answers(on_ranks):
    return on_ranks(measure, procs=4)


@pytest.mark.exercise("1.4")
@pytest.mark.parametrize("world", WORLDS)
def test_twenty_steps_equal_adamw_in_one_process(answers, world):
    """Whatever the number of ranks, the weights are those of AdamW on the whole batch.

    Gradients that were not averaged, or weights beyond the last whole slice that were never
    updated, still give a falling loss; only one process shows what it should have been.
    """
    for step, difference in enumerate(answers[world]["weights"], 1):
        assert difference < LIMIT, (
            f"{world} ranks, step {step}: weights differ by {difference:.3g} from those of one "
            f"process, limit {LIMIT:g}"
        )


@pytest.mark.exercise("1.4")
@pytest.mark.parametrize("world", WORLDS)
def test_the_gradient_is_the_mean_over_ranks(answers, world):
    """With SGD the weights are those of one process too; a sum would be N times the step.

    Adam divides a gradient by its own size, so under Adam a sum trains almost as a mean does; the
    learning rate is still wrong for every other optimizer, and so is every gradient norm.
    """
    for step, difference in enumerate(answers[f"{world} SGD"]["weights"], 1):
        assert difference < LIMIT, (
            f"{world} ranks, SGD, step {step}: weights differ by {difference:.3g} from those of "
            f"one process, limit {LIMIT:g}"
        )


@pytest.mark.exercise("1.4")
@pytest.mark.parametrize("world", WORLDS)
def test_every_rank_has_the_same_weights_after_a_step(answers, world):
    """The all-gather brings each slice to all ranks: any difference is a slice that was missed.

    Without it a rank updates its own slice and computes with old weights everywhere else.
    """
    for step, drift in enumerate(answers[world]["drift"], 1):
        assert drift == 0, f"{world} ranks, step {step}: weights differ by {drift:.3g} over ranks"


@pytest.mark.exercise("1.4")
@pytest.mark.parametrize("world", WORLDS)
def test_a_rank_keeps_its_share_of_the_moments(answers, world):
    """Adam's moments on a rank: 2 * ceil(P / N) elements, of 2 P in one process.

    This is what ZeRO-1 is for. A rank that keeps all of them trains just as well.
    """
    answer = answers[world]
    expected = 2 * -(-answer["numel"] // int(world))
    assert answer["state"] == expected, (
        f"{world} ranks: {answer['state']:.0f} elements of moments on a rank, expected {expected} "
        f"(one process has {answer['whole']})"
    )


@pytest.mark.exercise("1.4")
@pytest.mark.parametrize("world", WORLDS)
def test_the_weights_that_do_not_fill_a_slice_are_trained_too(answers, world):
    """93 weights do not divide by 2 or 4: flat is padded, and its last weights move as well."""
    answer = answers[world]
    moved = answer["moved"]
    assert min(moved) > 0, f"{world} ranks: each parameter's largest move was {moved}, expected > 0"
    part = -(-answer["numel"] // int(world))
    expected = [[int(world) * part], [part]]
    assert answer["shapes"] == expected, (
        f"{world} ranks: shapes of flat and shard are {answer['shapes']}, expected {expected}"
    )
    assert answer["same_parameters"], "the model's parameters must stay the objects they were"


@pytest.mark.exercise("1.4")
@pytest.mark.parametrize("world", ["2", "4"])
def test_a_step_communicates_as_much_as_data_parallelism(answers, world):
    """One reduce-scatter and one all-gather: 2 P elements, what one all-reduce moves.

    An all-reduce of gradients and then an all-gather of weights is right as well, and moves 3 P.
    """
    answer = answers[world]
    padded = answer["shapes"][0][0]
    for step, volume in enumerate(answer["volume"], 1):
        assert volume == 2 * 4 * padded, (
            f"{world} ranks, step {step}: {volume} bytes by {answer['calls'][step - 1]}, expected "
            f"{2 * 4 * padded}: twice the {4 * padded} bytes of flat"
        )


@pytest.mark.exercise("1.4")
@pytest.mark.parametrize("world", WORLDS)
def test_torchs_zero_redundancy_optimizer_agrees(answers, world):
    """torch's ZeroRedundancyOptimizer deals out whole parameters instead: the same weights."""
    for step, difference in enumerate(answers[world]["redundancy"], 1):
        assert difference < LIMIT, (
            f"{world} ranks, step {step}: weights differ by {difference:.3g} from those of "
            f"ZeroRedundancyOptimizer, limit {LIMIT:g}"
        )


@pytest.mark.parametrize("world", WORLDS)
def test_state_bytes_are_those_of_the_moments(answers, world):
    assert answers[world]["state_bytes"] == 4 * answers[world]["state"]


def test_a_frozen_weight_is_left_alone(answers):
    assert answers["frozen"] == {"moved": 0, "numel": 8 * 2 + 2 + 2 + 1}


def test_a_scheduler_drives_the_optimizer_of_the_slice(answers):
    assert answers["lr"] == pytest.approx(0.005)


def test_the_state_of_a_slice_resumes_that_slice_only(answers):
    assert answers["resumed"] == 0
    assert "'world': 8" in answers["refused"]
    assert "with as many ranks as saved it" in answers["refused"]


def test_parameters_that_one_fp32_buffer_cannot_hold_are_refused():
    with pytest.raises(InputError, match=r"params = \[\] must hold a parameter"):
        check_params([])
    with pytest.raises(InputError, match=r"torch\.bfloat16 on cpu"):
        check_params(list(nn.Linear(2, 2, dtype=torch.bfloat16).parameters()))
