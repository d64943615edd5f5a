"""Checkpoints: whole or absent, and read by another number of ranks bit for bit."""

import os
import pickle
from pathlib import Path

import pytest

from common.errors import InputError, RunError
from labs.lab1_fsdp_advanced.checkpoint import export_weights, latest
from labs.lab1_fsdp_advanced.checkpoint_files import (
    METADATA,
    File,
    Manifest,
    Reader,
    check,
    checksum,
    differences,
    publish,
)

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
    assert export_weights.__doc__


def manifest(step, files=None, model=None):
    return Manifest(step, 2, model or {"weight": "float32 [2]"}, None, {"note": 1}, files or {})


def complete(folder, step):
    """A complete checkpoint of a file of four bytes and an index."""
    partial = folder / f"step-{step:08d}.partial"
    partial.mkdir(parents=True)
    for name in ("__0_0.distcp", METADATA):
        (partial / name).write_bytes(b"0123")
    files = {path.name: File(4, checksum(path)) for path in partial.iterdir()}
    final = partial.with_suffix("")
    publish(partial, final, manifest(step, files), keep=9)
    return final


def test_no_folder_and_an_empty_one_have_no_checkpoint(tmp_path):
    assert latest(tmp_path / "absent") is None
    assert latest(tmp_path) is None


def test_what_is_incomplete_is_never_the_newest(tmp_path):
    """Neither a folder being written nor one without its manifest is read."""
    whole = complete(tmp_path, 1)
    (tmp_path / "step-00000002").mkdir()
    (tmp_path / "step-00000003.partial").mkdir()
    manifest(3).write(tmp_path / "step-00000003.partial")
    (tmp_path / "latest").unlink()
    assert latest(tmp_path) == whole


def test_the_pointer_decides_and_one_to_nothing_is_ignored(tmp_path):
    old, new = complete(tmp_path, 1), complete(tmp_path, 2)
    pointer = tmp_path / "latest"
    pointer.write_text(old.name)
    assert latest(tmp_path) == old
    for elsewhere in ("step-00000009", "../step-00000009", ".", ""):
        pointer.write_text(elsewhere)
        assert latest(tmp_path) == new


def test_a_hundred_million_steps_are_newer_than_fewer(tmp_path):
    complete(tmp_path, 99_999_999)
    new = complete(tmp_path, 100_000_000)
    (tmp_path / "latest").unlink()
    assert latest(tmp_path) == new


def test_a_step_that_is_saved_again_is_complete_at_every_moment(tmp_path, monkeypatch):
    """Between the two renames the old one stands aside, and counts."""
    complete(tmp_path, 1)
    old = complete(tmp_path, 2)
    seen = []
    rename = Path.rename

    def watched(path, target):
        rename(path, target)
        seen.append(latest(tmp_path).name)

    monkeypatch.setattr(Path, "rename", watched)
    assert complete(tmp_path, 2) == old
    assert seen[:2] == ["step-00000002.replaced", "step-00000002"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001", old.name]


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
    written = manifest(7, {"a": File(3, "00c0ffee")})
    written.write(tmp_path)
    assert Manifest.read(tmp_path) == written
    assert len(written.fingerprint) == 16
    other = manifest(7, model={"weight": "float32 [3]"})
    assert other.fingerprint != written.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "manifest.json is missing"),
        ('{"schema": 1, "step"', "manifest.json is damaged"),
        ('{"schema": 1}', "manifest.json is damaged"),
        ("[]", "manifest.json is damaged"),
    ],
)
def test_a_manifest_that_is_missing_or_half_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=message):
        Manifest.read(tmp_path)


def test_a_manifest_of_a_later_version_is_refused(tmp_path):
    manifest(1).write(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(RunError, match="has schema 2; this version reads 1"):
        Manifest.read(tmp_path)


def test_names_sizes_and_the_index_are_always_checked(tmp_path):
    folder = complete(tmp_path, 1)
    check(folder)
    (folder / METADATA).write_bytes(b"0124")
    with pytest.raises(RunError, match=r"\.metadata does not have the checksum"):
        check(folder)
    (folder / "__0_0.distcp").write_bytes(b"012")
    with pytest.raises(RunError, match=r"__0_0\.distcp has 3 bytes, and manifest\.json says 4"):
        check(folder)
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(RunError, match=r"__0_0\.distcp is missing"):
        check(folder)


def test_differences_name_each_tensor_with_both_shapes():
    saved = {"a": "float32 [2]", "b": "float32 [3]", "d": "float32 [4]"}
    mine = {"a": "float32 [2]", "b": "bfloat16 [3]", "c": "float32 [5]"}
    assert differences(saved, mine) == [
        "b is float32 [3] in the checkpoint and bfloat16 [3] in the model",
        "c is absent in the checkpoint and float32 [5] in the model",
        "d is float32 [4] in the checkpoint and absent in the model",
    ]


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def test_an_index_that_would_run_code_is_refused(tmp_path, monkeypatch):
    """DCP's index is a pickle: read with plain pickle, a checkpoint from elsewhere is a program."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / METADATA).write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(pickle.UnpicklingError, match="mkdir, which DCP never writes"):
        Reader(tmp_path).read_metadata()
    assert not (tmp_path / "it-ran").exists()
    assert issubclass(InputError, ValueError)
