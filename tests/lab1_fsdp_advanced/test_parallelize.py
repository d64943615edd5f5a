"""Every way to spread and compute a model against one process, on 1, 2 and 4 ranks."""

import inspect
import json
import textwrap

import pytest
import torch

from common.launch import torchrun
from labs.lab1_fsdp_advanced.parallelize import Parallelism, parallelize
from labs.lab1_fsdp_advanced.precision import Precision
from labs.lab1_fsdp_advanced.sharding import Strategy

WORLDS = (1, 2, 4)
STRATEGIES = [str(strategy) for strategy in Strategy]
OTHERS = [
    Parallelism(precision=Precision.FP16),
    Parallelism(precision=Precision.FP8),
    Parallelism(checkpointing="full"),
    Parallelism(checkpointing="selective"),
    Parallelism(precision=Precision.BF16, checkpointing="selective"),
    Parallelism(offload=True),
    Parallelism(Strategy.NO_SHARD, offload=True),
]
FP32, BF16, FP16, FP8 = 1e-5, 1e-2, 2e-3, 2e-2
"""Largest difference of a loss of about 4 nats over 20 steps."""


def compare(ranks, *ways):
    """Gradients and 20 losses of each way (JSON) beside those of one process in fp32."""
    import json

    import torch
    from torch.distributed.tensor import DTensor

    from labs.lab1_fsdp_advanced.model import Decoder, Shape, next_token_loss
    from labs.lab1_fsdp_advanced.parallelize import Parallelism, parallelize
    from labs.lab1_fsdp_advanced.precision import make_scaler
    from labs.lab1_fsdp_advanced.training import fit

    shape = Shape(width=32, layers=2, heads=4, context=16, vocabulary=64, kv_heads=2)
    steps, device = 20, ranks.device
    # Each token follows from the one before it, so there is something to learn.
    first = torch.randint(64, (steps, 8, 1), generator=torch.Generator().manual_seed(0))
    data = ((first + 5 * torch.arange(17)) % 64).to(device)

    def batches(step, rank, world):
        return data[step][rank::world].chunk(2)

    def whole(tensor):
        return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().to(device)

    def fresh():
        model = Decoder(shape).to(device)
        model.init_weights(0)
        return model

    def adamw(model):
        return torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)

    alone, expected = fresh(), []
    initial = [weight.detach().clone() for weight in alone.parameters()]
    next_token_loss(alone, data[0]).backward()
    gradients = [weight.grad.clone() for weight in alone.parameters()]
    alone.zero_grad()
    optimizer = adamw(alone)
    for step in range(steps):
        loss = next_token_loss(alone, data[step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(float(loss.detach()))

    answers = {"device": str(device), "learned": expected[0] - expected[-1]}
    for way in ways:
        how = Parallelism.from_json(json.loads(way))
        model = parallelize(shape, how, ranks, seed=0)
        same = all(torch.equal(whole(w), first) for w, first in zip(model.parameters(), initial))
        places = sorted({w.to_local().device.type for w in model.parameters()})
        micro = batches(0, ranks.rank, ranks.world)
        for number, batch in enumerate(micro, start=1):
            model.set_requires_gradient_sync(number == len(micro))
            (next_token_loss(model, batch) / len(micro)).backward()
        pairs = list(zip(model.parameters(), gradients))
        difference = max(float((whole(w.grad) - its).abs().max()) for w, its in pairs)
        model.zero_grad()
        optimizer = adamw(model)
        fitted = fit(
            model, optimizer, batches, next_token_loss, steps=steps,
            scaler=make_scaler(how.precision, device.type), reshard_between=how.reshard_between,
        )  # fmt: skip
        measured = [result.loss for result in fitted.history]
        answers[how.name] = {
            "same_weights": same,
            "places": places,
            "gradient": difference,
            "loss": max(abs(mine - its) for mine, its in zip(measured, expected)),
            "skipped": sum(result.skipped for result in fitted.history),
        }
    return answers


def as_arguments(ways):
    return [json.dumps(way.as_json()) for way in ways]


def each_strategy(*precisions):
    return [Parallelism(strategy, precision) for precision in precisions for strategy in Strategy]


@pytest.fixture(scope="module")
def answers(on_ranks):
    """What the ranks of a world measured; each world is started once."""
    found = {}

    def of(world):
        if world not in found:
            ways = each_strategy(Precision.FP32, Precision.BF16)
            ways += OTHERS if world == 2 else []
            found[world] = on_ranks(compare, *as_arguments(ways), procs=world, timeout=150)
        return found[world]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("world", WORLDS)
def test_the_gradients_are_those_of_one_process(answers, world, strategy):
    difference = answers(world)[f"{strategy} fp32"]["gradient"]
    assert difference <= FP32, f"gradients on {world} ranks differ by {difference:.3g}"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("world", WORLDS)
def test_twenty_losses_in_fp32_are_those_of_one_process(answers, world, strategy):
    difference = answers(world)[f"{strategy} fp32"]["loss"]
    assert difference <= FP32, f"a loss on {world} ranks differs by {difference:.3g}"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("world", WORLDS)
def test_twenty_losses_in_bf16_are_close_to_those_in_fp32(answers, world, strategy):
    difference = answers(world)[f"{strategy} bf16"]["loss"]
    assert 0 < difference <= BF16, f"a loss on {world} ranks differs by {difference:.3g}"


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_a_model_begins_with_the_same_weights_on_any_number_of_ranks(answers, world):
    """Bit for bit, however it is sharded: otherwise two runs compare two initialisations."""
    ways = each_strategy(Precision.FP32, Precision.BF16)
    assert [way.name for way in ways if not answers(world)[way.name]["same_weights"]] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "limit"),
    [
        ("FULL_SHARD fp16", FP16),
        ("FULL_SHARD fp8", FP8),
        ("FULL_SHARD fp32 full", FP32),
        ("FULL_SHARD fp32 selective", FP32),
        ("FULL_SHARD bf16 selective", BF16),
        ("FULL_SHARD fp32 offload", FP32),
        ("NO_SHARD fp32 offload", FP32),
    ],
)
def test_other_ways_to_compute_learn_the_same(answers, way, limit):
    answer = answers(2)[way]
    assert answer["loss"] <= limit, f"a loss differs by {answer['loss']:.3g}, limit {limit}"
    assert answer["same_weights"]
    if limit == FP32:
        assert answer["gradient"] <= FP32


@pytest.mark.slow
def test_fp16_makes_most_steps(answers):
    """A scale of 65,536 may be too large at first; then it has found its height."""
    assert answers(2)["FULL_SHARD fp16"]["skipped"] <= 3


@pytest.mark.slow
def test_the_reference_learns(answers):
    """Curves that do not move agree whatever is wrong."""
    assert answers(1)["learned"] > 0.3


def test_a_name_says_what_differs_from_the_defaults():
    assert Parallelism().name == "FULL_SHARD fp32"
    way = Parallelism(Strategy.ZERO_1, Precision.FP8, "full", offload=True, compile=True)
    assert way.name == "ZERO_1 fp8 full offload compile"


@pytest.mark.parametrize("way", [Parallelism(), *OTHERS, *each_strategy(Precision.BF16)], ids=str)
def test_a_way_survives_being_written_and_read(way):
    again = Parallelism.from_json(json.loads(json.dumps(way.as_json())))
    assert again == way
    assert isinstance(again.strategy, Strategy)
    assert isinstance(again.precision, Precision)


def test_only_zero_1_keeps_the_weights_between_micro_batches():
    kept = [way.strategy for way in each_strategy(Precision.FP32) if not way.reshard_between]
    assert kept == [Strategy.ZERO_1]


def test_fp8_without_the_hardware_is_refused_before_the_model_is_built(monkeypatch):
    from common.errors import InputError
    from labs.lab1_fsdp_advanced.distributed import Ranks
    from labs.lab1_fsdp_advanced.model import SIZES

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    ranks = Ranks(0, 1, 0, 1, torch.device("cuda", 0))
    with pytest.raises(InputError, match="take bf16"):
        parallelize(SIZES["8B"], Parallelism(precision=Precision.FP8), ranks, seed=0)


def on_gpus(folder, ways, *, procs):
    """:func:`compare` on CUDA ranks, started by torchrun as a run is."""
    module = textwrap.dedent(
        """
        import json, sys
        from labs.lab1_fsdp_advanced.distributed import leave, process_group

        {source}

        with process_group("cuda") as ranks:
            answers = compare(ranks, *sys.argv[2:])
            if ranks.is_main:
                with open(sys.argv[1], "w") as stream:
                    json.dump(answers, stream)
        leave()
        """
    )
    source = module.replace("{source}", inspect.getsource(compare))
    (folder / "compare_on_gpus.py").write_text(source)
    output = folder / "answers.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        torchrun(
            "compare_on_gpus", [str(output), *as_arguments(ways)],
            procs=procs, device="cuda", log=folder / "log",
        )  # fmt: skip
    return json.loads(output.read_text())


def has_fp8():
    return torch.cuda.get_device_capability() >= (8, 9)


@pytest.mark.gpu
def test_one_gpu_learns_what_one_process_does(tmp_path):
    """Every strategy in fp32 and bf16, then fp16, fp8, checkpointing, offload and compilation."""
    ways = each_strategy(Precision.FP32, Precision.BF16)
    ways += [way for way in OTHERS if has_fp8() or way.precision is not Precision.FP8]
    ways += [
        Parallelism(compile=True),
        Parallelism(precision=Precision.BF16, checkpointing="full", compile=True),
        Parallelism(precision=Precision.BF16, checkpointing="selective", compile=True),
        Parallelism(precision=Precision.BF16, offload=True),
    ]
    answers = on_gpus(tmp_path, ways, procs=1)
    limits = {"fp32": 1e-4, "bf16": BF16, "fp16": FP16, "fp8": FP8}
    for way in ways:
        answer = answers[way.name]
        assert answer["same_weights"], way.name
        assert answer["loss"] <= limits[way.precision], (way.name, answer)
        if way.precision is Precision.FP32:
            assert answer["gradient"] <= 1e-5, (way.name, answer)
        offloaded = way.offload and way.strategy is not Strategy.NO_SHARD
        assert answer["places"] == ["cpu" if offloaded else "cuda"], way.name


@pytest.mark.multigpu
def test_gpus_together_compute_the_gradients_of_one_process(tmp_path):
    """Over NCCL, on 2 or 4 GPUs: the global batch of 8 windows makes two micro-batches on each."""
    procs = 4 if torch.cuda.device_count() >= 4 else 2
    ways = each_strategy(Precision.FP32, Precision.BF16)
    answers = on_gpus(tmp_path, ways, procs=procs)
    for way in ways:
        answer = answers[way.name]
        assert answer["same_weights"], way.name
        if way.precision is Precision.FP32:
            assert answer["gradient"] <= 1e-5, (way.name, answer)
        assert answer["loss"] <= (1e-4 if way.precision is Precision.FP32 else BF16), way.name
