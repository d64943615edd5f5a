"""What may happen to a checkpoint: kill -9, a full disk, a damaged file, the wrong model.

Real ranks, real signals, the kernel's own errors. After each, all ranks say the same and end, and
the checkpoint before is whole.
"""

import inspect
import textwrap

import pytest

from common.errors import RunError
from common.launch import torchrun
from labs.lab1_fsdp_advanced.checkpoint import latest
from labs.lab1_fsdp_advanced.checkpoint_files import check, mismatched

# When rank 1 (or the only rank) is killed -> how many ranks, and what the kill leaves.
MOMENTS = {
    "a rank has written half of its shard": (2, ["latest", "step-1", "step-2.partial"]),
    "a thread of a rank has written half of its shard": (2, ["latest", "step-1", "step-2.partial"]),
    "all is written, nothing renamed": (1, ["latest", "step-1", "step-2.partial"]),
    "the folder is renamed, the pointer is not": (
        1,
        ["latest", "latest.partial", "step-1", "step-2"],
    ),
    "the step that is saved again stands aside": (
        1,
        ["latest", "step-2.partial", "step-2.replaced"],
    ),
}


def names(folder):
    return sorted(path.name.replace("0000000", "") for path in folder.iterdir())


def save_and_be_killed(ranks, folder, moment):
    """Save step 1, then be killed with SIGKILL in the middle of saving step 2."""
    import os
    import signal
    import sys
    from pathlib import Path

    import torch
    from torch import nn

    from labs.lab1_fsdp_advanced.async_checkpoint import Saver
    from labs.lab1_fsdp_advanced.checkpoint import save
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def die_at_the_rename_from(suffix):
        """Python announces each rename to audit hooks before it makes it."""

        def hook(event, arguments):
            if event == "os.rename" and str(arguments[0]).endswith(suffix):
                die()

        sys.addaudithook(hook)

    def die_in_the_middle_of_the_shard():
        original, calls = torch.save, []

        def half(value, stream, *args, **kwargs):
            if len(calls) == 2:
                die()
            calls.append(value)
            return original(value, stream, *args, **kwargs)

        torch.save = half

    torch.manual_seed(0)
    model = nn.Linear(5, 7)
    shard(model, Strategy.FULL_SHARD, device="cpu")
    optimizer = torch.optim.AdamW(model.parameters())
    place = Path(folder)
    again = moment == "the step that is saved again stands aside"
    save(place, model, optimizer, 2 if again else 1)
    with torch.no_grad():
        model.weight.mul_(2)
    if "half of its shard" in moment and ranks.rank == 1:
        die_in_the_middle_of_the_shard()
    if moment == "all is written, nothing renamed":
        die_at_the_rename_from("step-00000002.partial")
    if moment == "the folder is renamed, the pointer is not":
        die_at_the_rename_from("latest.partial")
    if again:
        die_at_the_rename_from("step-00000002.partial")
    saver = Saver(place, asynchronous="thread" in moment)
    saver.save(model, optimizer, 2)
    while True:  # training goes on, beside the thread
        model(torch.ones(3, 5)).sum().backward()


def resume_each(ranks, *folders):
    from pathlib import Path

    import torch
    from torch import nn

    from labs.lab1_fsdp_advanced.checkpoint import latest, load, save
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import full

    torch.manual_seed(0)
    reference, answers = nn.Linear(5, 7), {}
    for folder in folders:
        model = nn.Linear(5, 7)
        shard(model, Strategy.FULL_SHARD, device="cpu")
        optimizer = torch.optim.AdamW(model.parameters())
        loaded = load(Path(folder), model, optimizer, verify=True)
        difference = float((full(model.weight) - reference.weight).abs().max())
        save(Path(folder), model, optimizer, 2)
        kept = sorted(path.name for path in Path(folder).iterdir())
        answers[folder] = [loaded.step, difference, latest(Path(folder)).name, kept]
    return answers


@pytest.fixture(scope="module")
def killed(on_ranks, tmp_path_factory):
    """Each moment's folder, after the kill."""
    folders = {}
    for number, (moment, (procs, left)) in enumerate(MOMENTS.items()):
        folder = folders[moment] = tmp_path_factory.mktemp("killed") / str(number)
        answers = on_ranks(save_and_be_killed, folder, moment, procs=procs)
        with pytest.raises(pytest.fail.Exception, match=r"no answer|by peer"):
            answers["of a rank that was killed"]
        assert names(folder) == left, f"{moment}: the kill came at another moment"
        manifest = check(latest(folder))
        assert mismatched(latest(folder), manifest, manifest.files) == []
    return folders


@pytest.fixture(scope="module")
def resumed(on_ranks, killed):
    return on_ranks(resume_each, *killed.values(), procs=1)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_in_the_middle_of_a_save_leaves_the_checkpoint_before_it(killed, resumed, moment):
    """kill -9 at any moment: the previous checkpoint loads, and the next save tidies up."""
    again = moment == "the step that is saved again stands aside"
    step, difference, newest, kept = resumed[str(killed[moment])]
    assert step == (2 if again else 1)
    assert difference == 0, "the weights are those of the save that was killed"
    assert newest == "step-00000002"
    assert kept == ["latest", *([] if again else ["step-00000001"]), "step-00000002"]


@pytest.mark.slow
def test_torchrun_ends_when_a_rank_is_killed_while_it_saves(tmp_path, monkeypatch):
    """The other rank waits in a collective for the dead one: torchrun has to end it."""
    source = textwrap.dedent(inspect.getsource(save_and_be_killed))
    script = f"""
import sys
from labs.lab1_fsdp_advanced.distributed import process_group
{source}
with process_group("cpu") as ranks:
    save_and_be_killed(ranks, *sys.argv[1:])
"""
    (tmp_path / "a_rank_that_is_killed.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    place = tmp_path / "checkpoints"
    moment = "a rank has written half of its shard"
    arguments = [str(place), moment]
    with pytest.raises(RunError, match="rank 1: killed by SIGKILL"):
        torchrun(
            "a_rank_that_is_killed", arguments, procs=2, device="cpu", log=tmp_path / "ranks.log"
        )
    assert names(place) == MOMENTS[moment][1]
    assert latest(place) == place / "step-00000001"
    check(latest(place))


def fail(ranks, folder):
    """Each fault's message on every rank, and what is left after it."""
    import os
    import shutil
    import sys
    from pathlib import Path

    import torch
    import torch.distributed as dist
    from torch import nn

    from labs.lab1_fsdp_advanced import checkpoint
    from labs.lab1_fsdp_advanced.async_checkpoint import Saver
    from labs.lab1_fsdp_advanced.checkpoint_files import METADATA
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import full

    def build(width=7, layers=2, kind=torch.optim.AdamW, dtype=torch.float32):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(5 if i == 0 else width, width) for i in range(layers)))
        model.to(dtype)
        shard(model, Strategy.FULL_SHARD, device="cpu")
        return model, kind(model.parameters(), lr=0.1)

    answers = {}

    def failure(name, call):
        """Call it on all ranks; the error of each, which must be one and the same."""
        try:
            call()
            said = "nothing was raised"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        every = [None] * ranks.world
        dist.all_gather_object(every, said)
        answers[name] = every
        return said

    def on_rank_0(call):
        if ranks.is_main:
            call()
        dist.barrier()

    def names(place):
        found = sorted(path.name for path in place.iterdir())
        dist.barrier()
        return found

    model, optimizer = build()
    place = Path(folder, "run")
    checkpoint.save(place, model, optimizer, 1)
    checkpoint.save(place, model, optimizer, 2, keep=9)
    newest, before = place / "step-00000002", place / "step-00000001"

    # Another model, another optimizer
    other = {
        "wider": build(width=8), "deeper": build(layers=3), "shallower": build(layers=1),
        "bf16": build(dtype=torch.bfloat16), "momentum": build(kind=torch.optim.SGD),
    }  # fmt: skip
    for name, (its, theirs) in other.items():
        failure(name, lambda its=its, theirs=theirs: checkpoint.load(place, its, theirs))
    weights = Path(folder, "weights")
    checkpoint.save(weights, model, None, 1)
    failure("no optimizer", lambda: checkpoint.load(weights, *build()))
    answers["weights alone"] = checkpoint.load(place, build()[0]).step

    # Damage. Each is undone before the next.
    shard_file, kept = newest / "__1_0.distcp", Path(folder, "kept")
    on_rank_0(lambda: shutil.copytree(newest, kept))

    def undo():
        shutil.rmtree(newest, ignore_errors=True)
        shutil.copytree(kept, newest)

    def write(path, at, data):
        with path.open("r+b") as stream:
            stream.seek(at)
            stream.write(data)

    content = shard_file.read_bytes()
    row = full(model[0].weight).detach()[-1].numpy().tobytes()  # the last row is rank 1's
    at = content.index(row) + 3  # sign and exponent of a weight
    flipped = bytes([content[at] ^ 1])
    damages = {
        "half": lambda: os.truncate(shard_file, len(content) // 2),
        "gone": shard_file.unlink,
        "no manifest": (newest / "manifest.json").unlink,
        "half a manifest": lambda: os.truncate(newest / "manifest.json", 90),
        "index": lambda: write(newest / METADATA, 100, b"?"),
        "unreadable": lambda: write(shard_file, 0, bytes(len(content))),
    }
    for name, damage in damages.items():
        on_rank_0(damage)
        failure(name, lambda: checkpoint.load(place, *build()))
        on_rank_0(undo)
    on_rank_0(lambda: write(shard_file, at, flipped))
    its, theirs = build()
    checkpoint.load(place, its, theirs)
    answers["flipped moved"] = float((full(its[0].weight) - full(model[0].weight)).abs().max())
    failure("flipped", lambda: checkpoint.load(place, *build(), verify=True))
    on_rank_0(lambda: shutil.rmtree(newest))
    answers["as advised"] = checkpoint.load(place, *build()).step
    on_rank_0(lambda: os.truncate(before / "__0_0.distcp", 10))
    failure("the only one", lambda: checkpoint.load(place, *build()))

    # A disk that fills up on one rank, in the middle of a write
    def fill_up(event, arguments):
        path = str(arguments[0]) if event == "open" else ""
        broken = ("full/step-00000002.partial", "full/step-00000003.partial")
        if os.path.dirname(path).endswith(broken) and not os.path.lexists(path):
            os.symlink("/dev/full", path)

    full_disk = Path(folder, "full")
    checkpoint.save(full_disk, model, optimizer, 1)
    if ranks.rank == 1:
        sys.addaudithook(fill_up)
    large = build(width=30_000, layers=1)[0]  # no buffer holds it: torch.save meets the error
    failure("disk full", lambda: checkpoint.save(full_disk, large, None, 2))
    answers["disk full, left"] = names(full_disk)
    with Saver(full_disk, asynchronous=True) as saver:
        saver.save(model, optimizer, 3)
        failure("disk full, in the thread", saver.wait)
        answers["disk full, left by the thread"] = names(full_disk)
        saver.save(model, optimizer, 4)
    answers["disk full, next"] = names(full_disk)

    # Refused before anything is written
    nowhere = Path(folder, "file")
    on_rank_0(lambda: nowhere.write_text("no folder"))
    failure("not a folder", lambda: checkpoint.save(nowhere, model, optimizer, 1))
    endless = nn.ParameterList([nn.Parameter(torch.zeros(1).expand(10**15))])
    failure("no room", lambda: checkpoint.save(place, endless, None, 5))
    answers["no room, left"] = names(place)
    failure("other step", lambda: checkpoint.save(place, model, None, 5 + ranks.rank))
    failure("negative", lambda: checkpoint.save(place, model, None, -1))
    failure("keep", lambda: checkpoint.save(place, model, None, 1, keep=0))
    failure("extra", lambda: checkpoint.save(place, model, None, 1, {"set": {1}}))
    answers["nothing"] = checkpoint.load(Path(folder, "absent"), model, optimizer)
    return answers


@pytest.fixture(scope="module")
def faults(on_ranks, tmp_path_factory):
    return on_ranks(fail, tmp_path_factory.mktemp("faults"))


def said(faults, name):
    """The one message of all ranks."""
    messages = faults[name]
    assert len(messages) == 2
    assert messages[0] == messages[1], "the ranks say different things"
    return messages[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wider", "0.weight is float32 [7, 5] in the checkpoint and float32 [8, 5] in the model"),
        ("wider", "and 1 more; build the model as it was when it was saved"),
        ("deeper", "2.weight is absent in the checkpoint and float32 [7, 7] in the model"),
        ("shallower", "1.weight is float32 [7, 7] in the checkpoint and absent in the model"),
        ("bf16", "0.weight is float32 [7, 5] in the checkpoint and bfloat16 [7, 5] in the model"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_name(faults, name, message):
    """DCP alone would read a deeper model's checkpoint into a shallower one without a word."""
    text = said(faults, name)
    assert text.startswith("RunError: "), text
    assert "step-00000002 does not fit this model" in text
    assert message in text


def test_a_checkpoint_of_another_optimizer_is_refused(faults):
    assert "saved with {'class': 'AdamW'" in said(faults, "momentum")
    assert "this one is {'class': 'SGD'" in said(faults, "momentum")
    assert "it was saved with none" in said(faults, "no optimizer")
    assert faults["weights alone"] == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half", "step-00000002/__1_0.distcp has "),
        ("gone", "step-00000002/__1_0.distcp is missing"),
        ("no manifest", "step-00000002/manifest.json is missing"),
        ("half a manifest", "step-00000002/manifest.json is damaged"),
        ("index", "step-00000002/.metadata does not have the checksum in manifest.json"),
        ("unreadable", "step-00000002/__1_0.distcp does not have the checksum in manifest.json"),
        ("flipped", "step-00000002/__1_0.distcp does not have the checksum in manifest.json"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_the_one_to_use_instead(faults, name, message):
    """The file, and what to do: going back a thousand steps in silence is no answer."""
    text = said(faults, name)
    assert text.startswith("RunError: "), text
    assert message in text
    assert "remove step-00000002 to go on from step-00000001" in text


def test_doing_as_advised_loads_the_checkpoint_before(faults):
    assert faults["as advised"] == 1
    text = said(faults, "the only one")
    assert "no other complete checkpoint" in text
    assert "remove step-00000001 to start anew" in text


def test_only_a_checksum_finds_a_byte_that_changed(faults):
    """torch's zip files carry checksums, and its reader ignores them: verify=True is ours."""
    assert faults["flipped moved"] > 0, "the flipped byte was noticed without verify"


def test_a_disk_that_fills_up_on_one_rank_is_an_error_on_all(faults):
    """Named as the kernel names it; what was half-written goes, the checkpoint before stays."""
    for name, step in (("disk full", 2), ("disk full, in the thread", 3)):
        text = said(faults, name)
        assert text.startswith(f"RunError: the checkpoint of step {step} was not written: rank 1: ")
        assert "No space left on device" in text
        assert "__1_0.distcp" in text
    assert faults["disk full, left"] == ["latest", "step-00000001"]
    assert faults["disk full, left by the thread"] == ["latest", "step-00000001"]
    assert faults["disk full, next"] == ["latest", "step-00000001", "step-00000004"]


def test_a_save_that_cannot_be_is_refused_before_it_writes(faults):
    assert "file: [Errno" in said(faults, "not a folder")
    room = said(faults, "no room")
    assert "no room for the checkpoint of step 5: it needs 4,000,000,000,00" in room
    assert " free; make room" in room
    assert faults["no room, left"] == ["latest", "step-00000001"]


def test_what_is_asked_for_is_checked_on_every_rank(faults):
    assert said(faults, "other step") == "RunError: the ranks save different steps: [5, 6]"
    assert said(faults, "negative") == "InputError: step = -1 must be >= 0"
    assert said(faults, "keep") == "InputError: keep = 0 must be >= 1"
    assert said(faults, "extra").startswith("InputError: extra = {'set': {1}} must hold JSON")
    assert faults["nothing"] is None
