"""A checkpoint that one number of ranks saved, read by another: bit for bit, with any strategy."""

import pytest

WORLDS = (1, 2, 4)
STRATEGIES = ("NO_SHARD", "ZERO_1", "SHARD_GRAD_OP", "FULL_SHARD", "HYBRID_SHARD")
DIRECTIONS = ("saved by 1 rank, read by 2", "saved by 2 ranks, read by 1")


def read_elsewhere(ranks, folder):
    """Two ranks write checkpoints, one of them as one process would; read the other world's."""
    from pathlib import Path

    import torch
    from torch import nn
    from torch.distributed.checkpoint import state_dict_saver
    from torch.distributed.checkpoint.state_dict import (
        get_model_state_dict,
        get_optimizer_state_dict,
    )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from labs.lab1_fsdp_advanced.checkpoint import read

    def build(seed, sharded, **options):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        if sharded:  # by hand, so that these tests do not need exercise 1.1
            fully_shard(model, mesh=init_device_mesh("cpu", (ranks.world,)))
        return model, torch.optim.AdamW(model.parameters(), **options)

    def train(model, optimizer, *numbers):
        for number in numbers:
            x = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
            (model(x) ** 2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    def whole(tensor):
        return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()

    def held(model, optimizer):
        """What a run goes on from: name -> whole tensor."""
        group, found = optimizer.param_groups[0], {}
        for name, parameter in model.named_parameters():
            found[f"weight {name}"] = whole(parameter.detach())
            for key, value in optimizer.state.get(parameter, {}).items():
                found[f"{key} {name}"] = whole(value)
        return found | {"groups": torch.tensor([group["lr"], *group["betas"]])}

    def write(name, sharded, **options):
        model, optimizer = build(0, sharded, lr=0.05, betas=(0.7, 0.8))
        train(model, optimizer, 0, 1, 2)
        state = {"model": get_model_state_dict(model)}
        state["optimizer"] = get_optimizer_state_dict(model, optimizer)
        if sharded or ranks.rank == 0:
            state_dict_saver.save(state, checkpoint_id=Path(folder, name), no_dist=not sharded)
        saved = held(model, optimizer)
        train(model, optimizer, 3)
        after = held(model, optimizer)
        if ranks.rank == 0:
            torch.save([saved, after], Path(folder, f"{name}.pt"))
        torch.distributed.barrier()

    if ranks.world == 2:
        write("1", sharded=False)
        write("2", sharded=True)
    name = "1" if ranks.world == 2 else "2"
    saved, after = torch.load(Path(folder, f"{name}.pt"))
    model, optimizer = build(9, True, lr=0.9, betas=(0.1, 0.2))
    try:
        read(Path(folder, name), model, optimizer)
        raised = ""
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
    found = held(model, optimizer)
    train(model, optimizer, 3)
    continued = held(model, optimizer)

    def far(one, other):
        """Largest difference for each name; None where one of them lacks it."""
        return {
            key: float((one[key] - other[key]).abs().max()) if key in one else None for key in other
        }

    return {"raised": raised, "read": far(found, saved), "next": far(continued, after)}


@pytest.fixture(scope="module")
def elsewhere(on_ranks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    answers = [on_ranks(read_elsewhere, folder, procs=procs) for procs in (2, 1)]
    return dict(zip(DIRECTIONS, answers, strict=True))


def those(answers, part, *prefixes):
    assert not answers["raised"], f"read() raised {answers['raised']}"
    return {key: far for key, far in answers[part].items() if key.startswith(prefixes)}


@pytest.mark.exercise("1.9")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_weight_is_read_whatever_the_number_of_ranks(elsewhere, direction):
    """All ranks together hold the weights that were saved, bit for bit.

    A rank that keeps the rows which another one needs gives a model stitched together from the
    wrong parts. It trains, from a loss that nobody expected.
    """
    for name, far in those(elsewhere[direction], "read", "weight").items():
        assert far == 0, f"{direction}: {name} differs from the saved one by {far}, expected 0"


@pytest.mark.exercise("1.9")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_moments_and_the_step_counts_are_read(elsewhere, direction):
    """exp_avg, exp_avg_sq and step of every parameter are those that were saved.

    Moments of zero look like a success: the loss is right at first, and jumps within a few steps,
    because Adam has forgotten how large the gradients are.
    """
    names = ("exp_avg ", "exp_avg_sq ", "step ")
    for name, far in those(elsewhere[direction], "read", *names).items():
        assert far is not None, f"{direction}: the optimizer has no {name} after read()"
        assert far == 0, f"{direction}: {name} differs from the saved one by {far}, expected 0"


@pytest.mark.exercise("1.9")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_learning_rate_and_betas_are_read(elsewhere, direction):
    """param_groups are the saved ones (lr 0.05), not those the optimizer was built with (lr 0.9).

    They are no tensors, so nothing can fill them in place. A schedule that goes on from the wrong
    learning rate is a run that diverges after each restart.
    """
    far = those(elsewhere[direction], "read", "groups")["groups"]
    assert far < 1e-6, f"{direction}: lr or betas differ from the saved ones by {far}, expected 0"


@pytest.mark.exercise("1.9")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_next_step_is_that_of_the_run_that_never_stopped(elsewhere, direction):
    """One more step gives the weights that the saving run had one step later.

    This is what a checkpoint is for: the loss curve does not show where the run was interrupted.
    """
    for name, far in those(elsewhere[direction], "next", "weight").items():
        assert far < 1e-6, (
            f"{direction}: after one more step {name} is {far} away from that of the run that "
            "never stopped, limit 1e-6"
        )


def save_or_resume(ranks, folder, worlds):
    """With every strategy: train, save and go on; or go on from what other worlds have saved."""
    from pathlib import Path

    import torch
    from torch import nn

    from labs.lab1_fsdp_advanced import checkpoint
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import full, train_step

    def build(seed, strategy):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))  # 1 row, 4 ranks
        shard(model, strategy, device="cpu", blocks=[model[0]])
        return model, torch.optim.AdamW(model.parameters(), lr=0.02)

    def train(model, optimizer, strategy, steps):
        losses = []
        for step in steps:
            x = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(step))
            mine = x[:, ranks.rank :: ranks.world]
            result = train_step(
                model, optimizer, [(part, part.sum(1, keepdim=True)) for part in mine],
                lambda m, b: ((m(b[0]) - b[1]) ** 2).mean(), max_norm=1.0,
                reshard_between=strategy is not Strategy.ZERO_1,
            )  # fmt: skip
            losses.append(result.loss)
        return losses

    def whole(model, optimizer):
        found = {}
        for name, parameter in model.named_parameters():
            found[name] = full(parameter.detach()).clone()
            for key, value in optimizer.state[parameter].items():
                found[f"{key} of {name}"] = full(value).clone()
        return found

    strategies, answers = list(Strategy), {}
    if not worlds:
        for strategy in strategies:
            place = Path(folder, f"{ranks.world}-{strategy}")
            model, optimizer = build(0, strategy)
            train(model, optimizer, strategy, range(3))
            saved = whole(model, optimizer)
            checkpoint.save(place, model, optimizer, 3, {"note": "half way"})
            checkpoint.export_weights(model, place / "weights.safetensors")
            if ranks.is_main:
                torch.save(saved, place / "whole.pt")
            answers[strategy] = train(model, optimizer, strategy, range(3, 6))
        return answers
    for shift, world in enumerate(worlds.split()):
        for number, strategy in enumerate(strategies):
            other = strategies[(number + ranks.world + shift) % len(strategies)]
            place = Path(folder, f"{world}-{strategy}")
            model, optimizer = build(9, other)
            loaded = checkpoint.load(place, model, optimizer, verify=True)
            found, saved = whole(model, optimizer), torch.load(place / "whole.pt")
            answers[f"{world} {strategy}"] = {
                "by": other,
                "loaded": [loaded.step, loaded.world, loaded.extra],
                "differ": [key for key in saved if not torch.equal(found[key], saved[key])],
                "lacking": sorted(set(saved) ^ set(found)),
                "losses": train(model, optimizer, other, range(3, 6)),
            }
    return answers


@pytest.fixture(scope="module")
def saved(on_ranks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    losses = {world: on_ranks(save_or_resume, folder, "", procs=world) for world in WORLDS}
    return folder, losses


@pytest.fixture(scope="module", params=WORLDS)
def resumed(on_ranks, saved, request):
    worlds = " ".join(map(str, WORLDS))
    return on_ranks(save_or_resume, saved[0], worlds, procs=request.param)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("world", WORLDS)
def test_n_ranks_save_and_m_ranks_go_on(saved, resumed, world, strategy):
    """Weights and optimizer state bit for bit, and the same losses, with another strategy too."""
    answer, losses = resumed[f"{world} {strategy}"], saved[1][world][strategy]
    assert answer["loaded"] == [3, world, {"note": "half way"}]
    assert answer["lacking"] == []
    assert answer["differ"] == [], f"read by {answer['by']}"
    assert answer["losses"] == pytest.approx(losses, abs=1e-6), f"read by {answer['by']}"


@pytest.mark.slow
def test_exported_weights_are_those_of_one_process(saved):
    import torch
    from safetensors.torch import load_file

    for world in WORLDS:
        place = saved[0] / f"{world}-FULL_SHARD"
        exported, whole = load_file(place / "weights.safetensors"), torch.load(place / "whole.pt")
        assert sorted(exported) == ["0.bias", "0.weight", "2.bias", "2.weight"]
        assert all(torch.equal(exported[name], whole[name]) for name in exported)
