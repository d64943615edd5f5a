"""The planner against brute force, against counted traffic, and what it refuses."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.hardware import Gpu, Hardware
from labs.lab1_fsdp_advanced import planner
from labs.lab1_fsdp_advanced.candidates import Candidate, Setup, candidates, communicated
from labs.lab1_fsdp_advanced.memory import Held
from labs.lab1_fsdp_advanced.model import SIZES, Shape
from labs.lab1_fsdp_advanced.parallelize import Parallelism
from labs.lab1_fsdp_advanced.planner import GIB, Memory, advice, choose, fitting, largest
from labs.lab1_fsdp_advanced.precision import Precision
from labs.lab1_fsdp_advanced.sharding import Strategy
from labs.lab1_fsdp_advanced.worker import Job

COMMAND = [sys.executable, "-m", "labs.lab1_fsdp_advanced.planner"]


def way(strategy, gib, sent, *, again=0.0, mode="none", offload=False):
    """A candidate whose peak is mostly activations, as it is in practice."""
    state = round(gib * GIB / 16)
    held = Held(state, state, 2 * state, 0, round(gib * GIB) - 4 * state)
    return Candidate(Strategy(strategy), mode, offload, held, sent, again)


NO_SHARD = way("NO_SHARD", 90, 8_000)
ZERO_2 = way("SHARD_GRAD_OP", 60, 6_000)
FULL = way("FULL_SHARD", 20, 9_000)
THREE = [NO_SHARD, ZERO_2, FULL]


def named(chosen):
    return "nothing" if chosen is None else f"{chosen.name} ({chosen.peak.total / GIB:.0f} GiB)"


def assert_chosen(ways, gib, expected):
    chosen = choose(ways, gib * GIB)
    assert chosen is expected, (
        f"{named(chosen)} was chosen for {gib} GiB a rank; {named(expected)} was expected of "
        + ", ".join(
            f"{named(each)} sending {each.communicated}, repeating {each.recomputed:.0%}"
            for each in ways
        )
    )


@pytest.mark.exercise("1.11")
@pytest.mark.parametrize(
    ("gib", "expected"),
    [(100, ZERO_2), (80, ZERO_2), (40, FULL), (10, None)],
    ids=["all fit", "two fit", "one fits", "none fits"],
)
def test_the_one_that_sends_least_is_taken_of_those_that_fit(gib, expected):
    """Memory says what is possible, communication what is fast; None when nothing is possible.

    FULL_SHARD everywhere wastes an all-gather in each micro-batch wherever ZeRO-2 would have fit.
    """
    assert_chosen(THREE, gib, expected)


@pytest.mark.exercise("1.11")
def test_a_peak_of_exactly_the_budget_fits():
    """At most the budget: a margin belongs into the budget, where everybody sees it."""
    assert_chosen(THREE, 60, ZERO_2)
    assert_chosen(THREE, 60 - 1 / GIB, FULL)


@pytest.mark.exercise("1.11")
def test_activations_count_as_much_as_weights():
    """A rank that holds 5 GiB of state and 75 of activations needs 80, and runs out of 40."""
    large = replace(ZERO_2, peak=Held(GIB, GIB, 3 * GIB, 0, 75 * GIB))
    assert_chosen([large, FULL], 40, FULL)


@pytest.mark.exercise("1.11")
def test_equal_communication_is_decided_by_recomputation_then_offload_then_memory():
    """Checkpointing repeats up to a third of all operations: only when it has to be."""
    plain = way("FULL_SHARD", 50, 9_000)
    full = way("FULL_SHARD", 30, 9_000, again=0.25, mode="full")
    offloaded = way("FULL_SHARD", 10, 9_000, offload=True)
    small = way("HYBRID_SHARD", 45, 9_000)
    assert_chosen([full, plain], 60, plain)
    assert_chosen([full, plain], 40, full)
    assert_chosen([offloaded, plain], 60, plain)
    assert_chosen([full, offloaded], 60, offloaded)
    assert_chosen([plain, small], 60, small)


@pytest.mark.exercise("1.11")
def test_without_candidates_there_is_no_choice():
    """The caller has advice for that case; an exception here would hide it."""
    chosen = choose([], 80 * GIB)
    assert chosen is None, f"{named(chosen)} was chosen out of no candidates"


ways = st.lists(
    st.builds(
        way,
        st.sampled_from(list(Strategy)),
        st.integers(1, 6),
        st.integers(0, 3),
        again=st.sampled_from([0.0, 0.1, 0.25]),
        offload=st.booleans(),
    ),
    max_size=8,
)


@pytest.mark.exercise("1.11")
@settings(max_examples=200, deadline=None)
@given(ways=ways, gib=st.integers(0, 7))
def test_no_other_candidate_that_fits_is_better(ways, gib):
    """Against every other one, in any order: what is chosen fits, and none that fits beats it."""
    chosen = choose(ways, gib * GIB)
    fit = [each for each in ways if each.peak.total <= gib * GIB]
    if not fit:
        assert chosen is None, f"{named(chosen)} was chosen, and none fits in {gib} GiB"
        return
    assert any(chosen is each for each in fit), f"{named(chosen)} does not fit in {gib} GiB"
    for other in fit:
        for name in ("communicated", "recomputed", "offload"):
            mine, its = getattr(chosen, name), getattr(other, name)
            assert mine <= its, f"{name}: {mine} was chosen where {its} fits in {gib} GiB as well"
            if mine < its:
                break
        else:
            assert chosen.peak.total <= other.peak.total, (
                f"{named(chosen)} was chosen; {named(other)} is equal and needs less"
            )


def traffic(ranks):
    import torch

    from labs.lab1_fsdp_advanced.model import Shape, next_token_loss
    from labs.lab1_fsdp_advanced.parallelize import Parallelism, parallelize
    from labs.lab1_fsdp_advanced.precision import Precision
    from labs.lab1_fsdp_advanced.sharding import Strategy
    from labs.lab1_fsdp_advanced.traffic import Traffic
    from labs.lab1_fsdp_advanced.training import train_step

    shape = Shape(width=32, layers=2, heads=2, context=8, vocabulary=64, kv_heads=1)
    window = torch.randint(64, (1, 9))
    counted = {}
    for strategy in Strategy:
        for precision in (Precision.FP32, Precision.BF16):
            for micro_batches in (1, 3):
                how = Parallelism(strategy, precision)
                model = parallelize(shape, how, ranks, seed=0)
                optimizer = torch.optim.SGD(model.parameters())
                with Traffic() as traffic:
                    train_step(
                        model,
                        optimizer,
                        [window] * micro_batches,
                        next_token_loss,
                        max_norm=None,
                        reshard_between=how.reshard_between,
                    )
                counted[f"{strategy} {precision} {micro_batches}"] = traffic.volume
    return counted


@pytest.fixture(scope="module")
def counted(on_ranks):
    return on_ranks(traffic, procs=4)


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
@pytest.mark.parametrize("strategy", list(Strategy))
def test_communicated_bytes_are_those_of_the_collectives_that_ran(
    counted, strategy, precision, micro_batches
):
    shape = Shape(width=32, layers=2, heads=2, context=8, vocabulary=64, kv_heads=1)
    setup = Setup(shape, 4, 1, precision, micro_batches=micro_batches)
    measured = counted[f"{strategy} {precision} {micro_batches}"]
    # What is beside weights and gradients: the loss and the norm of the gradient.
    assert communicated(setup, strategy) == pytest.approx(measured, abs=100)


def test_candidates_are_every_strategy_with_every_checkpointing():
    setup = Setup(SIZES["1.3B"], 8, 8, Precision.BF16)
    ways = candidates(setup)
    assert len(ways) == 15
    both = candidates(setup, offload=True)
    assert len(both) == 27, "NO_SHARD has nothing to offload"
    assert {each.recomputed > 0 for each in ways if each.checkpointing == "none"} == {False}
    for plain, offloaded in zip(ways[3:], (each for each in both if each.offload), strict=True):
        assert offloaded.peak.total < plain.peak.total
        assert (offloaded.communicated, offloaded.recomputed) == (
            plain.communicated,
            plain.recomputed,
        )


def test_one_rank_communicates_nothing():
    setup = Setup(SIZES["10M"], 1, 1, Precision.FP32)
    assert {each.communicated for each in candidates(setup)} == {0}


def test_the_larger_the_memory_the_less_is_sent_or_repeated():
    ways = candidates(Setup(SIZES["8B"], 16, 2, Precision.BF16, local_ranks=8), offload=True)
    chosen = [choose(ways, gib * GIB) for gib in range(5, 320, 5)]
    prices = [(each.communicated, each.recomputed, each.offload) for each in chosen if each]
    assert len(set(prices)) > 3
    assert prices == sorted(prices, reverse=True)


def test_advice_names_what_fits_and_is_true():
    setup = Setup(SIZES["8B"], 2, 4, Precision.BF16)
    memory = Memory(80 * GIB, shared=False)
    said = advice(setup, memory)
    assert "4 ranks like these" in said
    assert "micro-batches of 2 in place of 4" in said
    assert "offload" in said
    budget = memory.budget(2)
    assert choose(candidates(setup), budget) is None
    assert choose(candidates(replace(setup, ranks=4)), budget) is not None
    assert choose(candidates(replace(setup, micro_batch=2)), budget) is not None
    other = advice(replace(setup, ranks=8, micro_batch=1), Memory(40 * GIB, shared=False))
    assert other == "try ZERO_1, checkpointing full (33.1 GiB a rank)"


def test_without_any_other_way_out_a_smaller_model_is_named():
    setup = Setup(SIZES["1B"], 2, 1, Precision.BF16, context=256, device="cpu")
    assert advice(setup, Memory(9 * GIB, shared=True)) == (
        "try the model 350M, the largest that fits"
    )
    assert largest(setup, Memory(9 * GIB, shared=True)) == "350M"
    assert largest(setup, Memory(1, shared=True)) is None
    assert advice(setup, Memory(1, shared=True)) == "try another machine"


BILLION = Job(
    ways=(),
    shape=SIZES["1B"],
    context=256,
    tokens="",
    global_batch=4,
    accumulation=1,
    steps=10,
    learning_rate=3e-4,
    max_norm=1.0,
    device="cpu",
    seed=0,
    checkpoints="",
    logs="",
    output="",
)
ASKED = [Parallelism(strategy, Precision.BF16, "full") for strategy in Strategy]


def host_has(monkeypatch, gib):
    memory = type("Memory", (), {"available": round(gib * GIB)})()
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)


def gpus_have(monkeypatch, *gib):
    gpus = [Gpu("H100", each, "570") for each in gib]
    monkeypatch.setattr("common.hardware.detect", lambda: Hardware("cpu", 8, 64.0, gpus))


def test_a_billion_parameters_fit_on_two_ranks_of_a_small_machine(monkeypatch):
    host_has(monkeypatch, 22)
    fit, refused = fitting(BILLION, ASKED, world=2)
    assert [each.strategy for each in fit] == ["ZERO_1", "SHARD_GRAD_OP", "FULL_SHARD"]
    assert len(refused) == 2
    assert refused[0].startswith("NO_SHARD bf16 full: needs 3")
    assert "22.0 GiB are available; try ZERO_1" in refused[0]


def test_nothing_is_tried_that_cannot_fit(monkeypatch):
    host_has(monkeypatch, 9)
    with pytest.raises(InputError) as raised:
        fitting(BILLION, ASKED, world=2)
    said = str(raised.value)
    assert said.count("9.0 GiB are available") == len(ASKED)
    assert "350M, the largest that fits" in said


def test_ranks_of_a_cpu_share_its_memory(monkeypatch):
    host_has(monkeypatch, 22)
    with pytest.raises(InputError, match="NO_SHARD"):
        fitting(replace(BILLION, global_batch=8), ASKED[:1], world=2)
    fit, _ = fitting(BILLION, ASKED[:1], world=1)
    assert fit == ASKED[:1], "one whole copy fits, two do not"


def test_hybrid_on_a_cpu_is_judged_by_four_ranks(monkeypatch):
    four = 4 * planner.PROCESS_GIB
    small = replace(BILLION, shape=SIZES["0.2M"], global_batch=8)
    host_has(monkeypatch, four)
    fit, refused = fitting(small, [ASKED[3], ASKED[4]], world=2)
    assert fit == [ASKED[3]]
    assert "(4 x" in refused[0]


def test_the_smallest_gpu_decides(monkeypatch):
    job = replace(BILLION, device="cuda", global_batch=16, context=2048)
    asked = [replace(each, checkpointing="none") for each in ASKED]
    gpus_have(monkeypatch, 80.0, 80.0)
    fit, refused = fitting(job, asked, world=2)
    assert (len(fit), refused) == (5, [])
    gpus_have(monkeypatch, 80.0, 40.0)
    fit, refused = fitting(job, asked, world=2)
    assert "NO_SHARD" not in {each.strategy for each in fit}
    assert "36.8 GiB are available (92% of 40.0)" in refused[0]


def test_a_gpu_without_memory_of_its_own_shares_the_hosts(monkeypatch):
    gpus_have(monkeypatch, 0.0)
    host_has(monkeypatch, 100)
    assert planner.here("cuda") == Memory(100 * GIB, shared=True)


def test_offloading_to_a_host_without_room_is_refused(monkeypatch):
    gpus_have(monkeypatch, 80.0, 80.0)
    host_has(monkeypatch, 10)
    asked = [replace(each, offload=True) for each in (ASKED[3], ASKED[0])]
    fit, refused = fitting(replace(BILLION, device="cuda"), asked, world=2)
    assert fit == asked[1:]
    assert "offload needs 16" in refused[0]


def run(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)


def test_the_command_line_prints_the_table_and_the_choice():
    done = run("--model", "1.3B", "--gpus", "8", "--gib", "40", "--micro-batch", "8")
    assert done.returncode == 0, done.stderr
    assert "take: ZERO_1, checkpointing selective" in done.stdout
    assert "1,283,041,280 parameters" in done.stdout
    assert "…" not in done.stdout


def test_the_command_line_says_what_would_do_when_nothing_fits():
    done = run("--model", "8B", "--gpus", "2", "--micro-batch", "4")
    assert done.returncode == 1
    assert "nothing fits; try" in done.stdout


def test_help_does_not_import_torch():
    code = (
        "import sys, contextlib\n"
        "from labs.lab1_fsdp_advanced.planner import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "0"], "gpus = 0 must be at least 1"),
        (["--gpus", "12"], "must be a multiple of the GPUs of a node"),
        (["--gib", "-1"], "gib = -1.0 must be > 0"),
        (["--gib", "nan"], "gib = nan must be > 0"),
        (["--model", "auto"], "model = 'auto' has no size"),
        (["--model", "7B"], "7B"),
        (["--context", "-1"], "context = -1 must be >= 0"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
