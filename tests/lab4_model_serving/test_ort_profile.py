"""A profile's events into seconds by operator."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab4_model_serving import ort_profile
from labs.lab4_model_serving.figures_runtime import draw_operator_times


def kernel(operator: str, ts: float, dur: float, tid: int = 1, name: str = "node") -> dict:
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": ts,
        "dur": dur,
        "tid": tid,
        "args": {"op_name": operator, "provider": "CPUExecutionProvider"},
    }


def session_event(name: str, ts: float, dur: float) -> dict:
    return {"cat": "Session", "name": name, "ts": ts, "dur": dur, "tid": 1, "args": {}}


@pytest.mark.exercise("4.5")
def test_what_holds_kernels_is_no_kernel():
    """A run and its executor are events too, around the kernels: adding them counts all time
    three times. Fences and other marks of a node are no kernels either.
    """
    fence = {**kernel("MatMul", 100, 7), "name": "node_fence_before"}
    events = [
        session_event("model_run", 90, 500),
        session_event("SequentialExecutor::Execute", 95, 480),
        fence,
        kernel("MatMul", 110, 300),
        kernel("Add", 420, 50),
    ]
    found = ort_profile.exclusive_times(events)
    assert set(found) == {"MatMul", "Add"}, f"operators {sorted(found)}, of ['Add', 'MatMul']"
    total = sum(found.values())
    assert total == pytest.approx(350e-6), (
        f"the operators took {total:.6g} s in all, the two kernels 0.00035 s (dur is microseconds)"
    )


@pytest.mark.exercise("4.5")
def test_the_time_of_a_body_is_not_counted_for_the_node_around_it():
    """A Loop of 1000 us holds kernels of 400 and 300: 300 are its own. On another thread a kernel
    at the same time is nobody's child. Events come in the order in which they ended.
    """
    events = [
        kernel("MatMul", 10, 400),
        kernel("Relu", 450, 100),
        kernel("If", 420, 300),
        kernel("Loop", 0, 1000),
        kernel("Conv", 100, 800, tid=2),
    ]
    wanted = {"MatMul": 400e-6, "Relu": 100e-6, "If": 200e-6, "Loop": 300e-6, "Conv": 800e-6}
    found = ort_profile.exclusive_times(events)
    for operator, seconds in wanted.items():
        assert found.get(operator) == pytest.approx(seconds), (
            f"{operator}: {found.get(operator)} s, its own time is {seconds} s"
        )


@pytest.mark.exercise("4.5")
def test_operators_are_summed_over_their_nodes_and_the_largest_comes_first():
    """By node's name there is a row a node, and the four small layer norms hide behind a MatMul."""
    events = [kernel("Norm", 100 * i, 40, name=f"norm_{i}") for i in range(4)]
    events += [kernel("MatMul", 50, 45), kernel("Add", 350, 20), kernel("Norm", 400, 10)]
    found = ort_profile.exclusive_times(events)
    assert list(found) == ["Norm", "MatMul", "Add"], f"order {list(found)}"
    assert found["Norm"] == pytest.approx(170e-6), (
        f"Norm took {found['Norm']:.6g} s, its five nodes 0.00017 s"
    )


@pytest.mark.exercise("4.5")
@settings(derandomize=True, deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_all_operators_sum_to_the_time_in_which_a_kernel_ran(seed):
    """Nothing twice, nothing lost: the outermost kernels cover the time once, on each thread."""
    rng = np.random.default_rng(seed)
    events, outermost = [], 0.0

    def nest(start: float, end: float, tid: int, depth: int) -> None:
        events.append(kernel(f"op{rng.integers(5)}", start, end - start, tid))
        if depth:
            cuts = np.sort(rng.uniform(start, end, 4))
            nest(cuts[0], cuts[1], tid, depth - 1)
            nest(cuts[2], cuts[3], tid, depth - 1)

    for tid in (1, 2):
        for place in range(2):
            start = 1000.0 * place + rng.uniform(0, 100)
            end = start + rng.uniform(100, 800)
            outermost += end - start
            nest(start, end, tid, int(rng.integers(0, 4)))
    order = rng.permutation(len(events))
    total = sum(ort_profile.exclusive_times([events[i] for i in order]).values())
    assert total == pytest.approx(outermost / 1e6), (
        f"the operators sum to {total:.6g} s, a kernel ran for {outermost / 1e6:.6g} s"
    )


def test_no_kernels_are_no_times():
    assert ort_profile.exclusive_times([session_event("model_run", 0, 5)]) == {}


def test_the_first_runs_are_left_out_and_times_are_means_a_run():
    """The first run plans memory and packs weights: it says nothing about the thousandth."""
    events = []
    for start, run, matmul in ((0, 900, 800), (1000, 100, 60), (2000, 200, 100)):
        events += [kernel("MatMul", start + 5, matmul), session_event("model_run", start, run)]
    found = ort_profile.profile_of(events, warmup=1, name="fp32")
    assert (found.runs, found.kernels) == (2, {"MatMul": 1})
    assert found.run_s == pytest.approx(150e-6)
    assert found.by_operator["MatMul"] == pytest.approx(80e-6)
    assert found.overhead_s == pytest.approx(70e-6)
    assert found.placement == {"CPUExecutionProvider": 1}
    with pytest.raises(InputError, match="warmup = 3"):
        ort_profile.profile_of(events, warmup=3)


def test_a_real_profile_accounts_for_every_node_of_every_run(tiny_bundle, tmp_path):
    ids = np.ones((2, 6), np.int64)
    given = [{"input_ids": ids, "attention_mask": ids}] * 8
    found = ort_profile.profile_model(tiny_bundle.model, given, tmp_path, warmup=3)
    assert found.runs == 5
    assert found.kernels["Gather"] == found.kernels["ReduceSum"] == 1
    assert set(found.placement) == {"CPUExecutionProvider"}
    assert 0 < sum(found.by_operator.values()) <= found.run_s
    (kept,) = tmp_path.glob("model_*.json")
    assert json.loads(kept.read_text())


def test_what_is_no_profile_is_refused(tmp_path):
    with pytest.raises(InputError, match="no profile"):
        ort_profile.read_events(tmp_path / "none.json")
    path = tmp_path / "p.json"
    for content, message in (("[{", "no JSON"), ("{}", "list of events"), ("[1]", "list of")):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            ort_profile.read_events(path)


def test_the_bars_of_the_figure_are_as_long_as_the_runs():
    """Named operators, the rest and what no kernel accounts for: together the time of a run."""
    times = {f"op{i}": 0.001 * (i + 1) for i in range(9)}
    profiles = [
        ort_profile.Profile("a", 1, 0.050, times, dict.fromkeys(times, 1.0), {}),
        ort_profile.Profile("b", 1, 0.004, {"op8": 0.003}, {"op8": 1.0}, {}),
    ]
    figure = draw_operator_times(profiles, shown=4)
    bars = np.array([[bar.get_width() for bar in each] for each in figure.axes[0].containers])
    assert bars.sum(axis=0) == pytest.approx([50, 4])
    assert bars[-1] == pytest.approx([5, 1])
