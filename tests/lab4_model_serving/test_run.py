import json
import re
import subprocess
import sys

import pytest

from labs.lab4_model_serving import traps
from labs.lab4_model_serving.claims import CLAIMS, FAULTS, FULL_SIZE
from labs.lab4_model_serving.config import LEFT_TO_DEVICE, SCALES, Config, for_device
from labs.lab4_model_serving.report import left_out

TRAPS = {  # what must hold of the first number that is wrong and the first that is right
    "coordinated_omission": lambda wrong, right: wrong < 100 < right,
    "p99_of_fifty_requests": lambda wrong, right: right < 5 < 30 < wrong,
    "a_session_for_every_request": lambda wrong, right: wrong > 3 * right,
    "a_trace_that_froze_a_length": lambda wrong, right: wrong < 0.9 < right == 1,
    "int4_without_accuracy_level": lambda wrong, right: wrong > right > 0,
    "delay_counted_from_dequeue": lambda wrong, right: wrong > 1.4 * right,
    "unbounded_queue_under_overload": lambda wrong, right: abs(wrong / right - 1) < 0.1,
    "ping_needs_a_token": lambda wrong, right: wrong == 400,
    "the_launcher_orphans_the_jvm": lambda wrong, right: (wrong, right) == (0, 0),
    "canary_judged_on_too_few_requests": lambda wrong, right: wrong > 20 > 5 >= right,
    "autoscaling_on_a_rate_that_the_bottleneck_caps": lambda wrong, right: wrong < right,
    "mean_of_p99s": lambda wrong, right: wrong < 50 < right,
}
SAYS = {  # words that carry the rest of what a trap shows
    "ping_needs_a_token": ("400, so", "alive True, ready True"),
    "the_launcher_orphans_the_jvm": ("0 launchers, 1 JVM serving", "0 processes"),
}
REAL = ("ping_needs_a_token", "the_launcher_orphans_the_jvm")


def first_number(text):
    found = re.search(r"\d+(?:\.\d+)?", text.replace(",", ""))
    return float(found[0]) if found else None


@pytest.mark.parametrize(
    "trap",
    [
        pytest.param(trap, marks=[pytest.mark.slow] if trap.__name__ in REAL else [])
        for trap in traps.TRAPS
    ],
    ids=lambda trap: trap.__name__,
)
def test_every_trap_shows_the_wrong_number_and_the_right_one(trap):
    shown = trap()
    wrong, right = (first_number(value) for _, value in (shown.wrong, shown.right))
    assert TRAPS[trap.__name__](wrong, right), (shown.wrong, shown.right)
    for (_, value), words in zip((shown.wrong, shown.right), SAYS.get(trap.__name__, ())):
        assert words in value


def test_an_unbounded_queue_answers_in_time_for_nobody():
    """The trap's throughputs are equal; what counts is how many of the answers are in time."""
    shown = traps.unbounded_queue_under_overload()
    in_time = [
        float(value.replace(" ", "").split(",")[-1]) for _, value in (shown.wrong, shown.right)
    ]
    assert in_time[0] < 0.2 * in_time[1], in_time


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of a smoke run."""
    out = tmp_path_factory.mktemp("lab4")
    command = [sys.executable, "-m", "labs.lab4_model_serving", "--scale", "smoke", "--out", out]
    subprocess.run(command, check=True, timeout=280)
    return json.loads((out / "lab4_model_serving/latest/results.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_smoke_run_shows_what_does_not_depend_on_speed(results):
    """What is true on any machine passes; what needs a minute or a kill has a reason."""
    outcome = {entry["id"]: entry["passed"] for entry in results["deliverables"]}
    for name in ("parity", "goodput", "balancing", "hysteresis", "buckets"):
        assert outcome[f"L4.{name}"] is True, (name, results["deliverables"])
    reasons = {entry["id"]: entry["reason"] for entry in results["deliverables"]}
    small = ("scaling", "histogram", "rollout", "speedup", "overload", "shed", "recovery")
    for claim in (*FAULTS, *FULL_SIZE, *(f"L4.{name}" for name in small)):
        assert outcome[claim] is None
        assert reasons[claim]


@pytest.mark.slow
def test_the_ladder_has_every_rung_with_accuracy_size_latency_and_rate(results):
    metrics = results["metrics"]
    for rung in ("eager_pytorch", "torchscript", "onnx", "onnx_fused", "int8", "int8_batched"):
        for name in ("accuracy", "bytes", "p50_ms", "p99_ms", "qps_at_slo"):
            assert metrics[f"ladder.{rung}.{name}"]["value"] is not None, (rung, name)
    smaller = metrics["ladder.int8.bytes"]["value"] / metrics["ladder.onnx.bytes"]["value"]
    assert smaller < 0.3
    for name in ("qps_at_slo", "p99_ms", "errors", "accuracy_drop", "speedup_vs_eager"):
        entry = metrics[f"serving.{name}"]
        assert entry["value"] is not None or entry["reason"], name


@pytest.mark.slow
def test_a_wrong_version_is_sent_back_and_answers_are_those_of_the_version_they_name(results):
    """That no request fails is tested on a small model: a busy machine refuses some of this one."""
    metrics = results["metrics"]
    assert metrics["rollout.as_expected"]["value"] == 1
    assert metrics["rollout.users_moved_back"]["value"] == 0
    assert metrics["rollout.mixed_up_answers"]["value"] == 0


def test_every_claim_has_an_id_of_its_own():
    ids = [claim.id for claim in CLAIMS]
    assert len(ids) == len(set(ids))
    assert {"smoke", "standard", "full"} == set(SCALES)


@pytest.mark.parametrize("device", LEFT_TO_DEVICE)
@pytest.mark.parametrize("scale", SCALES)
def test_what_is_left_to_the_device_gets_a_value_and_what_is_given_stays(device, scale):
    """INT8 in batches of 16 on a CPU, fp16 in batches of 64 on a GPU; options override both."""
    found = for_device(SCALES[scale], device)
    assert (found.served, found.batch_size) == {"cpu": ("int8", 16), "cuda": ("fp16", 64)}[device]
    assert found.search_high > found.search_low
    assert found.queue_size >= 2 * found.batch_size
    given = Config(served="fp32", batch_size=3, queue_size=7, search_high=999.0, workers=5)
    assert for_device(given, device) == given


def test_the_ladder_says_which_rungs_a_gpu_does_not_have():
    """A rung that is missing without a word looks like one that was forgotten."""
    assert left_out("cpu", "int8") == {}
    assert set(left_out("cuda", "fp16")) == {"torchscript", "int8"}
    assert set(left_out("cuda", "int8")) == {"torchscript"}
    assert all(len(reason) > 20 for reason in left_out("cuda", "fp16").values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--texts", "10"], "texts = 10 must be 0 or >= 100"),
        (["--batch-size", "-1"], "batch_size = -1 must be >= 0"),
        (["--search-low", "9000"], "must be above search_low = 9000"),
        (["--inference-port", "70000"], "inference_port = 70000"),
        (["--overload", "0.5"], "overload = 0.5 must be > 1"),
    ],
)
def test_an_option_out_of_range_is_one_clear_error(arguments, message):
    command = [sys.executable, "-m", "labs.lab4_model_serving", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
