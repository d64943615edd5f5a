"""Interval arithmetic against brute force, and a trace of two real ranks."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import InputError, RunError
from labs.lab1_fsdp_advanced.chrome_trace import Event, lanes, read_trace, without
from labs.lab1_fsdp_advanced.profiling import (
    FORWARD,
    STEP,
    Profile,
    describe,
    exposed,
    main,
    summarise,
    timeline,
)


def assert_exposure(communication, compute, total, hidden):
    found = exposed(communication, compute)
    measured = (found.total, found.hidden, found.exposed)
    expected = (total, hidden, total - hidden)
    assert measured == pytest.approx(expected), (
        f"communication {communication}, compute {compute}: (total, hidden, exposed) is "
        f"{measured}, expected {expected}"
    )


@pytest.mark.exercise("1.13")
def test_communication_under_computation_is_hidden_and_the_rest_is_exposed():
    """A reduce-scatter of 4 s, computation during 3 of them: 1 s of the step is its price.

    This is the number that says whether a faster network would help at all.
    """
    assert_exposure([(2, 6)], [(0, 5)], total=4, hidden=3)
    assert_exposure([(2, 6)], [(7, 9)], total=4, hidden=0)
    assert_exposure([(2, 6)], [(0, 9)], total=4, hidden=4)


@pytest.mark.exercise("1.13")
def test_events_that_nest_or_repeat_count_once():
    """A trace has an operator inside another, and one collective as several events.

    Summing durations gives a step of 10 s more than 10 s of communication.
    """
    assert_exposure([(0, 10), (2, 4), (2, 4), (3, 12)], [], total=12, hidden=0)
    assert_exposure([(0, 10), (2, 4), (5, 6)], [(5, 7)], total=10, hidden=2)


@pytest.mark.exercise("1.13")
def test_two_operators_above_one_collective_hide_it_once():
    """aten::linear holds aten::addmm: both lie over the collective, which can be hidden only once.

    Adding the overlaps pair by pair finds more hidden than there is, and exposed time below zero.
    """
    assert_exposure([(0, 10)], [(2, 8), (3, 7)], total=10, hidden=6)
    assert_exposure([(0, 10), (4, 14)], [(2, 8), (3, 12)], total=14, hidden=10)


@pytest.mark.exercise("1.13")
def test_gaps_between_events_belong_to_nobody():
    """Two short collectives at both ends of a step are not one as long as the step."""
    assert_exposure([(0, 1), (9, 10)], [(4, 5)], total=2, hidden=0)
    assert_exposure([(3, 7)], [(0, 4), (6, 9)], total=4, hidden=2)


@pytest.mark.exercise("1.13")
def test_no_communication_costs_nothing_and_no_computation_hides_nothing():
    """One GPU alone has no collectives, and a trace may be cut where nothing computes."""
    assert_exposure([], [(0, 5)], total=0, hidden=0)
    assert_exposure([(1, 3), (3, 4)], [], total=3, hidden=0)
    assert_exposure([(2, 2)], [(2, 2)], total=0, hidden=0)


@pytest.mark.exercise("1.13")
def test_an_interval_that_ends_before_it_starts_is_refused():
    """Start and duration taken for start and end: without a check it is a negative time."""
    with pytest.raises(InputError, match=r"\(5, 3\)"):
        exposed([(5, 3)], [(0, 1)])
    with pytest.raises(InputError, match=r"\(5, 3\)"):
        exposed([(0, 1)], [(5, 3)])


spans = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda pair: (pair[0], sum(pair))),
    max_size=12,
)


def cells(intervals):
    return {cell for start, end in intervals for cell in range(start, end)}


@pytest.mark.exercise("1.13")
@settings(derandomize=True, deadline=None, max_examples=200)
@given(spans, spans)
@example([(0, 10), (1, 2), (8, 9)], [(0, 4), (1, 2), (3, 10)])
def test_any_intervals_agree_with_counting_the_cells_of_a_grid(communication, compute):
    """On whole numbers every second can be counted: in communication, in both, in one alone."""
    ours, theirs = cells(communication), cells(compute)
    assert_exposure(communication, compute, total=len(ours), hidden=len(ours & theirs))


@settings(derandomize=True, deadline=None)
@given(spans, spans)
def test_holes_are_cut_out_of_a_union(intervals, holes):
    parts = without(intervals, holes)
    assert cells(parts) == cells(intervals) - cells(holes)
    assert sum(end - start for start, end in parts) == len(cells(parts)), "parts overlap"


def event(name, category, start, end, thread="main"):
    return Event(name, category, start, end, ("process", thread))


def test_on_a_gpu_the_kernels_count_and_not_what_the_host_launched():
    events = [
        event("aten::mm", "cpu_op", 0, 1),
        event("nccl:all_gather", "user_annotation", 0, 1),
        event("ncclDevKernel_AllGather_RING_LL", "kernel", 5, 9, thread=20),
        event("sm90_xmma_gemm_bf16", "kernel", 6, 8, thread=7),
        event("Memcpy HtoD", "gpu_memcpy", 0, 3, thread=7),
    ]
    found = lanes(events)
    assert found.communication == [(5, 9)]
    assert found.compute == [(6, 8)]


def test_on_the_cpu_what_gloo_and_the_waits_do_is_no_computation():
    events = [
        event("gloo:all_reduce", "user_annotation", 2, 6, thread="gloo"),
        event("aten::copy_", "cpu_op", 3, 4, thread="gloo"),
        event("aten::add", "cpu_op", 0, 8),  # of a DTensor: it waits for a collective inside
        event("_c10d_functional::wait_tensor", "cpu_op", 2, 6),
        event("autograd::engine::evaluate_function: X", "cpu_op", 8, 20),
        event("AddmmBackward0", "cpu_op", 8, 20),
        event("aten::mm", "cpu_op", 9, 10),
        event("FSDP::all_gather (0)", "user_annotation", 8, 20),
    ]
    found = lanes(events)
    assert found.communication == [(2, 6)]
    assert found.compute == [(0, 2), (6, 8), (9, 10)]


def test_a_trace_is_read_plain_or_compressed_in_seconds_from_its_start(tmp_path):
    raw = [
        {"ph": "X", "name": "b", "cat": "cpu_op", "ts": 3e6, "dur": 5e5, "pid": 1, "tid": 2},
        {"ph": "X", "name": "a", "cat": "kernel", "ts": 1e6, "dur": 1e6, "pid": 1, "tid": 3},
        {"ph": "M", "name": "thread_name", "ts": 0, "pid": 1, "tid": 3, "args": {}},
    ]
    text = json.dumps({"traceEvents": raw})
    (tmp_path / "trace.json").write_text(text)
    (tmp_path / "trace.json.gz").write_bytes(gzip.compress(text.encode()))
    expected = [Event("a", "kernel", 0, 1, (1, 3)), Event("b", "cpu_op", 2, 2.5, (1, 2))]
    assert read_trace(tmp_path / "trace.json") == expected
    assert read_trace(tmp_path / "trace.json.gz") == expected


EVENTS = [
    event(STEP, "user_annotation", 0, 10),
    event(STEP, "gpu_user_annotation", 0, 10),
    event(STEP, "user_annotation", 20, 40),
    event(FORWARD, "user_annotation", 0, 4),
    event("autograd::engine::evaluate_function: A", "cpu_op", 5, 8),
    event("autograd::engine::evaluate_function: B", "cpu_op", 6, 9),
    event("compute", "kernel", 0, 6),
    event("ncclDevKernel", "kernel", 4, 8),
    event("compute", "kernel", 25, 35),
    event("ncclDevKernel", "kernel", 34, 50),  # 10 s of it after the last step
]


def test_a_summary_is_the_mean_over_the_marked_steps():
    profile = summarise(EVENTS, rank=3)
    assert (profile.rank, profile.steps, profile.step_s) == (3, 2, 15)
    assert (profile.communication_s, profile.compute_s) == (5, 8)
    assert profile.exposed_s == 3.5
    assert profile.phases == {"forward": 2, "backward": 2}
    assert profile.communication_share == pytest.approx(5 / 15)
    assert profile.exposed_share == pytest.approx(3.5 / 15)


def test_a_trace_without_steps_is_refused():
    with pytest.raises(RunError, match=r"no 'lab1::step' spans; record it with profile_steps"):
        summarise(EVENTS[3:], rank=0)


def test_the_timeline_shows_exposed_communication_apart():
    axes = timeline(EVENTS, step=1, title="rank 0").axes[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["communication", "compute", "phase"]
    drawn = [
        [path.get_extents().bounds[0::2] for path in each.get_paths()] for each in axes.collections
    ]
    compute, communication, cost = drawn[-3:]  # (start, duration) in milliseconds of the step
    assert compute == [(5000, 10000)]
    assert communication == [(14000, 6000)]
    assert cost == [(15000, 5000)]
    with pytest.raises(InputError, match="step = 2 must be 0 to 1"):
        timeline(EVENTS, step=2)


def test_the_report_has_a_line_for_each_rank():
    profile = Profile(1, 2, 0.5, 0.2, 0.3, 0.05, {}, "")
    lines = describe({"DDP": [profile]}).splitlines()
    assert lines[1].split() == ["DDP", "1", "500.0", "300.0", "200.0", "50.0", "75%"]


def measure(ranks, folder):
    from dataclasses import asdict
    from pathlib import Path

    import torch
    from torch import nn
    from torch.distributed.fsdp import fully_shard

    from common.errors import InputError
    from labs.lab1_fsdp_advanced.profiling import marked, profile_steps

    torch.manual_seed(0)
    x = torch.randn(64, 256)

    def loss_fn(model, batch):
        return model(batch).square().mean()

    def job(kind):
        layers = [nn.Linear(256, 256) for _ in range(6)]
        model: nn.Module = nn.Sequential(*layers)
        if kind == "FSDP":
            for layer in layers:
                fully_shard(layer)
            fully_shard(model)
        else:
            model = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        calls = 0

        def step():
            nonlocal calls
            calls += 1
            marked(loss_fn)(model, x).backward()
            optimizer.step()
            optimizer.zero_grad()

        step()
        found = profile_steps(step, steps=3, folder=Path(folder) / kind, ranks=ranks)
        return asdict(found) | {"calls": calls}

    answers = {kind: job(kind) for kind in ("DDP", "FSDP")}
    try:
        profile_steps(lambda: None, steps=0, folder=Path(folder), ranks=ranks)
    except InputError as error:
        answers["refused"] = str(error)
    return answers


@pytest.fixture(scope="module")
def answers(on_ranks, tmp_path_factory):
    return on_ranks(measure, tmp_path_factory.mktemp("traces"))


@pytest.mark.parametrize("kind", ["DDP", "FSDP"])
def test_a_profile_of_two_ranks_adds_up(answers, kind):
    found = answers[kind]
    assert found["calls"] == 5  # one before, one while the profiler starts, three counted
    assert found["steps"] == 3
    assert 0 < found["exposed_s"] <= found["communication_s"] < found["step_s"]
    assert 0 < found["compute_s"] < found["step_s"]
    assert found["compute_s"] + found["exposed_s"] <= found["step_s"]
    assert set(found["phases"]) == {"forward", "backward", "optimizer"}
    assert sum(found["phases"].values()) < 1.01 * found["step_s"]
    assert Path(found["trace"]).name == "trace-rank-0.json.gz"


def test_ddp_hides_communication_on_the_cpu_and_fsdp_waits_for_each_collective(answers):
    """FSDP overlaps by CUDA streams; on the CPU it waits where it calls. DDP waits at the end."""
    ddp, fsdp = answers["DDP"], answers["FSDP"]
    assert ddp["exposed_s"] < ddp["communication_s"]
    assert fsdp["exposed_s"] > 0.9 * fsdp["communication_s"]


def test_a_real_trace_holds_the_collectives_and_can_be_drawn(answers):
    events = read_trace(Path(answers["FSDP"]["trace"]))
    assert {"gloo:all_gather", "gloo:all_reduce"} <= {each.name for each in events}
    assert timeline(events).axes[0].get_xlim()[1] > 0


def test_no_step_is_refused(answers):
    assert answers["refused"] == "steps = 0 must be >= 1"


@pytest.mark.slow
@pytest.mark.multigpu
def test_on_gpus_the_kernels_of_nccl_are_told_from_the_others(tmp_path):
    main(tmp_path, "cuda")
    profiles = json.loads((tmp_path / "profiles.json").read_text())
    events = read_trace(Path(profiles["FULL_SHARD"][0]["trace"]))
    found = lanes(events)
    assert found.communication
    assert found.compute
    assert {each.category for each in events} >= {"kernel"}
    for ranks in profiles.values():
        assert all(0 < each["exposed_s"] <= each["communication_s"] for each in ranks)
