"""Saving while training goes on: what is copied, when it counts, and what it leaves untouched."""

import inspect
import json
import textwrap

import pytest

from common.launch import torchrun


def measure(ranks, folder):
    import time
    from pathlib import Path

    import torch
    from torch import nn

    from common.errors import RunError
    from labs.lab1_fsdp_advanced import checkpoint
    from labs.lab1_fsdp_advanced.async_checkpoint import Saver, compare
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import full

    def build(strategy=Strategy.FULL_SHARD, kind=torch.optim.AdamW, seed=0, **options):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 3))
        shard(model, strategy, device="cpu", blocks=[model[0]])
        return model, kind(model.parameters(), **{"lr": 0.05, **options})

    def train(model, optimizer, *numbers):
        losses = []
        for number in numbers:
            x = torch.randn(8, 5, generator=torch.Generator().manual_seed(number))
            loss = (model(x[ranks.rank :: ranks.world]) ** 2).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return losses

    def weights(model):
        return torch.cat([full(p.detach()).flatten() for p in model.parameters()])

    def name(place):
        """Rank 0 looks once all are here, and before any of them goes on."""
        torch.distributed.barrier()
        found = checkpoint.latest(place)
        torch.distributed.barrier()
        return found and found.name

    def far(place, expected, strategy=Strategy.FULL_SHARD):
        model, optimizer = build(strategy, seed=9)
        model(torch.ones(2, 5)).sum().backward()  # leaves a gradient
        with torch.no_grad():
            model(torch.ones(2, 5))  # may leave whole weights in place of the shards
        checkpoint.load(place, model, optimizer, verify=True)
        assert len(optimizer.state) == 4, "the moments were not read"
        return float((weights(model) - expected).abs().max())

    answers, place = {}, Path(folder, "changed")
    model, optimizer = build()
    train(model, optimizer, 0, 1)
    saved = weights(model)
    with Saver(place, asynchronous=True) as saver:
        saver.save(model, optimizer, 2, {"note": "early"})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0)
        answers["before"] = name(place)
    answers["after"] = name(place)
    answers["changed"] = far(place, saved)

    for asynchronous in (False, True):
        place = Path(folder, f"run-{asynchronous}")
        model, optimizer = build()
        losses = train(model, optimizer, 0)
        with Saver(place, keep=2, asynchronous=asynchronous) as saver:
            for step in range(1, 5):
                saver.save(model, optimizer, step)
                losses += train(model, optimizer, *range(step, 8))
        kept = sorted(path.name for path in place.iterdir())
        sizes = (place / "step-00000004" / f"__{ranks.rank}_0.distcp").stat().st_size
        answers[f"asynchronous {asynchronous}"] = {
            "losses": losses,
            "kept": kept,
            "steps": [timing.step for timing in saver.timings],
            "positive": all(t.stalled_s > 0 and t.written_s > 0 for t in saver.timings),
            "bytes": [saver.timings[-1].bytes >= sizes, saver.timings[-1].bytes < sizes + 60_000],
        }

    place = Path(folder, "polled")
    model, optimizer = build()
    saver = Saver(place, asynchronous=True)
    polls = [saver.poll()]
    saver.save(model, optimizer, 1)
    deadline = time.monotonic() + 20
    while not polls[-1] and time.monotonic() < deadline:
        polls.append(saver.poll())
    answers["polled"] = [polls[0], polls[-1], name(place), saver.poll()]
    saver.save(model, optimizer, 2)
    saver.save(model, optimizer, 3)
    answers["second save"] = name(place)
    saver.wait()
    saver.wait()
    answers["waited"] = name(place)
    saver.close()

    stalls = compare(Path(folder, "compared"), model, optimizer, lambda: time.sleep(0.1), saves=1)
    answers["compared"] = [
        stalls.bytes, min(stalls.synchronous_s, stalls.asynchronous_s, stalls.written_s),
        Path(folder, "compared").exists(),
    ]  # fmt: skip

    place = Path(folder, "failed")
    try:
        with Saver(place, asynchronous=True) as saver:
            saver.save(model, optimizer, 1)
            raise RunError("in the middle of training")
    except RunError as error:
        answers["error in the block"] = [str(error), name(place)]
    saver.wait()

    for kind, options in (
        (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.SGD, {}),
    ):
        label = f"{kind.__name__} {options}"
        place = Path(folder, label)
        model, optimizer = build(kind=kind, **options)
        untouched, theirs = build(kind=kind, **options)
        (model(torch.ones(2, 5)) ** 2).mean().backward()  # a gradient that a save must not lose
        gradient = full(model[0].weight.grad).clone()
        checkpoint.save(place, model, optimizer, 0)
        kept = float((full(model[0].weight.grad) - gradient).abs().max())
        optimizer.zero_grad()
        train(model, optimizer, 0, 1)
        train(untouched, theirs, 0, 1)
        disturbed = float((weights(model) - weights(untouched)).abs().max())
        again, optimizer = build(kind=kind, seed=9, **options)
        (again(torch.ones(2, 5)) ** 2).mean().backward()
        checkpoint.load(place, again, optimizer)
        optimizer.zero_grad()
        train(again, optimizer, 0, 1)
        resumed = float((weights(again) - weights(untouched)).abs().max())
        answers[f"step 0, {label}"] = [kept, disturbed, resumed]

    for strategy in Strategy:
        place = Path(folder, f"evaluated-{strategy}")
        model, optimizer = build(strategy)
        train(model, optimizer, 0)
        with torch.no_grad():
            model(torch.ones(2, 5))
        checkpoint.save(place, model, optimizer, 1)
        answers[f"evaluated {strategy}"] = far(place, weights(model), strategy)
    return answers


@pytest.fixture(scope="module")
def answers(on_ranks, tmp_path_factory):
    return on_ranks(measure, tmp_path_factory.mktemp("saver"))


def test_weights_that_change_after_save_do_not_reach_the_checkpoint(answers):
    """The copy is taken before save() returns: a checkpoint of two steps at once is of none."""
    assert answers["changed"] == 0


def test_a_checkpoint_counts_once_it_is_published_and_not_before(answers):
    """Its thread may have written all of it: only a point that every rank reaches publishes."""
    assert answers["before"] is None
    assert answers["after"] == "step-00000002"
    assert answers["second save"] == "step-00000002", "the next save publishes the one before"
    assert answers["waited"] == "step-00000003"


def test_polling_publishes_when_all_ranks_have_written(answers):
    before, after, found, again = answers["polled"]
    assert before is False, "nothing was pending"
    assert after is True
    assert found == "step-00000001"
    assert again is False, "it was published already"


def test_training_goes_on_beside_the_thread_as_without_it(answers):
    """The thread's collectives have their own group: the losses are equal bit for bit."""
    with_thread, without = answers["asynchronous True"], answers["asynchronous False"]
    assert with_thread["losses"] == without["losses"]
    assert with_thread["kept"] == without["kept"] == ["latest", "step-00000003", "step-00000004"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_each_save_is_timed(answers, asynchronous):
    answer = answers[f"asynchronous {asynchronous}"]
    assert answer["steps"] == [1, 2, 3, 4]
    assert answer["positive"]
    assert answer["bytes"] == [True, True]


def test_an_error_in_the_block_is_not_answered_by_a_collective(answers):
    """The other ranks may be elsewhere: waiting for them there would hide the error for ever."""
    assert answers["error in the block"] == ["in the middle of training", None]


@pytest.mark.parametrize(
    "optimizer", ["AdamW {}", "AdamW {'fused': True}", "SGD {'momentum': 0.9}", "SGD {}"]
)
def test_a_save_before_the_first_step_disturbs_nothing(answers, optimizer):
    """DCP makes the moments by a step of its own; counted, it would halve Adam's first update.

    Gradients that are there stay, and do not keep the moments out of the checkpoint.
    """
    gradient, disturbed, resumed = answers[f"step 0, {optimizer}"]
    assert gradient == 0, "the gradient changed"
    assert disturbed == 0, "the run that was saved trains on differently"
    assert resumed == 0, "the run that was resumed trains on differently"


@pytest.mark.parametrize(
    "strategy", ["NO_SHARD", "ZERO_1", "SHARD_GRAD_OP", "FULL_SHARD", "HYBRID_SHARD"]
)
def test_an_evaluation_before_a_save_or_a_load_makes_no_difference(answers, strategy):
    """After a forward pass alone, FSDP may show whole weights where the optimizer knows shards."""
    assert answers[f"evaluated {strategy}"] == 0


def test_stalls_of_both_kinds_are_compared(answers):
    size, least, left = answers["compared"]
    assert size > 12 * (6 * 64 + 65 * 3), "weights and two moments, in fp32"
    assert least > 0
    assert not left


def on_gpus(ranks, folder, output):
    import json
    from dataclasses import asdict
    from pathlib import Path

    import torch
    from torch import nn

    from labs.lab1_fsdp_advanced import checkpoint
    from labs.lab1_fsdp_advanced.async_checkpoint import Saver, compare
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import full

    def build(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(8)))
        shard(model, Strategy.FULL_SHARD, device=ranks.device, blocks=list(model))
        return model, torch.optim.AdamW(model.parameters(), fused=True)

    def step():
        model(torch.ones(64, 2048, device=ranks.device)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = build(0)
    step()
    saved = [full(p.detach()).clone() for p in model.parameters()]
    with Saver(Path(folder), asynchronous=True) as saver:
        saver.save(model, optimizer, 1)
        step()
    again, its = build(9)
    checkpoint.load(Path(folder), again, its, verify=True)
    pairs = zip(again.parameters(), saved, strict=True)
    differ = sum(not torch.equal(full(mine.detach()), expected) for mine, expected in pairs)

    def work():
        for _ in range(100):
            step()
        torch.cuda.synchronize()

    stalls = compare(Path(folder, "compared"), model, optimizer, work)
    if ranks.is_main:
        Path(output).write_text(json.dumps(asdict(stalls) | {"differ": differ}))


@pytest.mark.slow
@pytest.mark.multigpu
def test_on_gpus_the_copy_is_taken_before_training_goes_on(tmp_path, monkeypatch):
    """Non-blocking copies to pinned memory are waited for; the thread touches no GPU."""
    source = textwrap.dedent(inspect.getsource(on_gpus))
    script = f"""
import sys
from labs.lab1_fsdp_advanced.distributed import leave, process_group
{source}
with process_group("cuda") as ranks:
    on_gpus(ranks, *sys.argv[1:])
leave()
"""
    (tmp_path / "saves_on_gpus.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    output = tmp_path / "answer.json"
    arguments = [str(tmp_path / "checkpoints"), str(output)]
    torchrun("saves_on_gpus", arguments, procs=2, device="cuda", log=tmp_path / "ranks.log")
    found = json.loads(output.read_text())
    print(found)
    assert found["differ"] == 0
    assert 0 < found["asynchronous_s"] < found["synchronous_s"], found
