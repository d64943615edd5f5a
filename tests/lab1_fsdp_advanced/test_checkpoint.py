"""Checkpoints: whole or absent, for any number of ranks."""

import json

import pytest

from common.errors import InputError
from labs.lab1_fsdp_advanced.checkpoint import latest


def complete(folder, step):
    """A folder that looks like a complete checkpoint."""
    made = folder / f"step-{step:08d}"
    made.mkdir(parents=True)
    (made / "extra.json").write_text(json.dumps({"step": step, "extra": {}}))
    return made


def test_no_folder_and_an_empty_one_have_no_checkpoint(tmp_path):
    assert latest(tmp_path / "absent") is None
    assert latest(tmp_path) is None


def test_what_is_incomplete_is_never_the_newest(tmp_path):
    """Neither a folder being written nor one without its last file is read."""
    whole = complete(tmp_path, 1)
    (tmp_path / "step-00000002").mkdir()
    complete(tmp_path, 3).rename(tmp_path / "step-00000003.partial")
    assert latest(tmp_path) == whole


def test_the_pointer_decides_and_a_dangling_one_is_ignored(tmp_path):
    old, new = complete(tmp_path, 1), complete(tmp_path, 2)
    (tmp_path / "latest").write_text(old.name)
    assert latest(tmp_path) == old
    (tmp_path / "latest").write_text("step-00000009")
    assert latest(tmp_path) == new


def save_and_train_on(ranks, folder, strategy, first, last):
    """Train from the newest checkpoint to step ``last``, saving at ``first``: losses, weights."""
    from pathlib import Path

    import torch
    from torch import nn

    from labs.lab1_fsdp_advanced import checkpoint
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import full, train_step

    torch.manual_seed(ranks.rank if Path(folder).exists() else 0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    shard(model, Strategy(strategy), device="cpu", blocks=[model[0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    loaded = checkpoint.load(Path(folder), model, optimizer)
    start, losses = (loaded.step if loaded else 0), []
    for step in range(start, int(last)):
        drawn = torch.Generator().manual_seed(step)
        x = torch.randn(8, 5, generator=drawn)[ranks.rank :: ranks.world]
        batch = [(x, x.sum(1, keepdim=True))]
        result = train_step(
            model, optimizer, batch, lambda m, b: ((m(b[0]) - b[1]) ** 2).mean(), max_norm=1.0
        )
        losses.append(result.loss)
        if step + 1 == int(first):
            checkpoint.save(Path(folder), model, optimizer, step + 1, {"note": "half way"})
    weights = torch.cat([full(p).detach().flatten() for p in model.parameters()])
    checkpoint.export_weights(model, Path(folder) / "weights.safetensors")
    extra = loaded.extra if loaded else None
    return {"start": start, "losses": losses, "weights": weights.tolist(), "extra": extra}


@pytest.mark.parametrize(
    ("saved", "resumed", "strategy"),
    [(2, 1, "FULL_SHARD"), (1, 2, "SHARD_GRAD_OP"), (2, 3, "HYBRID_SHARD"), (2, 1, "NO_SHARD")],
)
def test_n_ranks_save_and_m_ranks_go_on(on_ranks, tmp_path, saved, resumed, strategy):
    """The same losses and weights as the ranks that never stopped, optimizer state included.

    8 rows over 3 ranks do not divide, so the mean of means differs there; only the loaded state
    is compared.
    """
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "checkpoints"
    whole = on_ranks(save_and_train_on, folder, strategy, 3, 6, procs=saved)
    assert whole["start"] == 0
    exported = load_file(folder / "weights.safetensors")
    assert list(exported) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    flat = torch.cat([exported[name].flatten() for name in ("0.weight", "0.bias")])
    assert flat.tolist() == pytest.approx(whole["weights"][: len(flat)], abs=0)
    steps = 6 if resumed != 3 else 3
    other = "FULL_SHARD" if strategy != "FULL_SHARD" else "NO_SHARD"
    rest = on_ranks(save_and_train_on, folder, other, 0, steps, procs=resumed)
    assert rest["start"] == 3
    assert rest["extra"] == {"note": "half way"}
    if steps == 6:
        assert rest["losses"] == pytest.approx(whole["losses"][3:], abs=1e-6)
        assert rest["weights"] == pytest.approx(whole["weights"], abs=1e-5)


def killed_while_saving(ranks, folder, moment):
    """Save step 1, then kill a rank with SIGKILL in the middle of saving step 2."""
    import os
    import signal
    from pathlib import Path

    import torch
    from torch import nn

    from labs.lab1_fsdp_advanced import checkpoint
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard

    def die(*ignored):
        os.kill(os.getpid(), signal.SIGKILL)

    torch.manual_seed(0)
    model = nn.Linear(5, 7)
    shard(model, Strategy.FULL_SHARD, device="cpu")
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.save(Path(folder), model, optimizer, 1, {})
    with torch.no_grad():
        model.weight.mul_(2)
    if moment == "a rank dies before its shard is written" and ranks.rank == 1:
        checkpoint.state_dict_saver.save = die
    if moment == "rank 0 dies before the rename":
        Path.rename = die
    if moment == "rank 0 dies before the pointer":
        checkpoint._sync = die
    checkpoint.save(Path(folder), model, optimizer, 2, {})
    return {}


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("a rank dies before its shard is written", ["step-00000002.partial"]),
        ("rank 0 dies before the rename", ["step-00000002.partial"]),
        ("rank 0 dies before the pointer", ["step-00000002"]),
    ],
)
def test_a_kill_in_the_middle_of_a_save_leaves_the_checkpoint_before_it(
    on_ranks, tmp_path, moment, left
):
    """kill -9 at any moment: the previous checkpoint loads, and the next save works."""
    on_ranks(killed_while_saving, tmp_path, moment)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["latest", "step-00000001", *left], "the kill came at another moment"
    assert latest(tmp_path) == tmp_path / "step-00000001"

    answers = on_ranks(load_and_save_again, tmp_path, procs=1)
    assert answers["step"] == 1
    assert answers["difference"] == 0
    assert latest(tmp_path) == tmp_path / "step-00000002"


def load_and_save_again(ranks, folder):
    from pathlib import Path

    import torch
    from torch import nn

    from labs.lab1_fsdp_advanced import checkpoint
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import full

    torch.manual_seed(0)
    reference = nn.Linear(5, 7)
    torch.manual_seed(9)
    model = nn.Linear(5, 7)
    shard(model, Strategy.FULL_SHARD, device="cpu")
    loaded = checkpoint.load(Path(folder), model)
    difference = float((full(model.weight) - reference.weight).abs().max())
    checkpoint.save(Path(folder), model, None, 2)
    return {"step": loaded.step, "difference": difference}


def misuse(ranks, folder):
    from pathlib import Path

    from torch import nn

    from common.errors import InputError, RunError
    from labs.lab1_fsdp_advanced import checkpoint
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard

    def model(width):
        made = nn.Linear(5, width)
        return shard(made, Strategy.FULL_SHARD, device="cpu")

    for step in (1, 2, 3, 3):
        checkpoint.save(Path(folder), model(7), None, step, keep=2)
    kept = sorted(path.name for path in Path(folder).iterdir())
    messages = []
    for call in (
        lambda: checkpoint.load(Path(folder), model(8)),
        lambda: checkpoint.load(Path(folder), nn.Sequential(model(7))),
        lambda: checkpoint.save(Path(folder), model(7), None, -1),
    ):
        try:
            call()
            messages.append("nothing was raised")
        except (InputError, RunError) as error:
            messages.append(f"{type(error).__name__}: {error}")
    nothing = checkpoint.load(Path(folder) / "absent", model(7))
    return {"kept": kept, "messages": messages, "nothing": nothing}


def test_old_checkpoints_go_and_one_that_does_not_fit_is_named(on_ranks, tmp_path):
    answers = on_ranks(misuse, tmp_path, procs=1)
    assert answers["kept"] == ["latest", "step-00000002", "step-00000003"]
    shape, name, step = answers["messages"]
    assert shape.startswith("RunError: "), shape
    assert "step-00000003 does not fit this model" in shape
    assert name.startswith("RunError: "), name
    assert "0.weight" in name
    assert step.startswith("InputError: step = -1"), step
    assert answers["nothing"] is None
    assert issubclass(InputError, ValueError)
