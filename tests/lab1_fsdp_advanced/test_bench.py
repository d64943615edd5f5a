"""The sweep: its order, what it does with a combination that fails, and what it leaves behind."""

import json
import subprocess
import sys

import pytest

from common.errors import InputError
from labs.lab1_fsdp_advanced.bench import Row, Sweep, combinations, plot, table

COMMAND = [sys.executable, "-m", "labs.lab1_fsdp_advanced.bench", "--scale", "smoke"]
COMMAND += ["--device", "cpu", "--procs", "1", "--strategies", "FULL_SHARD"]


def failing(ranks):
    """Ways that fail on no rank, on the second alone, on both; without and with ``keep_going``."""
    import logging
    from types import SimpleNamespace

    import torch

    from labs.lab1_fsdp_advanced import worker

    def train(job, way, ranks, beat):
        if ranks.rank == 1 and way.fails == [1]:
            raise RuntimeError("backend='inductor' raised:\nKeyError: 'sum'\n\nand a hint")
        if ranks.rank in way.fails:
            raise torch.OutOfMemoryError(f"no room on {ranks.rank}\nand a long table")
        return {"tokens_per_second": 1.0}

    worker.train = train
    beats = []
    job = SimpleNamespace(keep_going=True)
    answers = {
        name: worker.attempt(
            job, SimpleNamespace(name=name, fails=fails), ranks, lambda: beats.append(ranks.rank)
        )
        for name, fails in {"none": [], "second": [1], "both": [0, 1], "after": []}.items()
    }
    try:
        both = SimpleNamespace(fails=[0, 1])
        worker.attempt(SimpleNamespace(keep_going=False), both, ranks, logging.info)
        answers["strict"] = "went on"
    except torch.OutOfMemoryError:
        answers["strict"] = "raised"
    return answers | {"beats": beats}


def test_a_combination_that_fails_on_one_rank_is_left_out_by_all_and_the_next_one_runs(on_ranks):
    answers = on_ranks(failing, procs=2)
    done = {"tokens_per_second": 1.0}
    assert answers["none"] == answers["after"] == done
    said = "rank 1: RuntimeError: backend='inductor' raised: KeyError: 'sum'"
    assert answers["second"] == {"reason": said}
    assert answers["both"] == {"reason": "rank 0: OutOfMemoryError: no room on 0"}
    assert answers["beats"] == [0, 0, 0, 0]
    assert answers["strict"] == "raised", "outside of a sweep an error ends the run"


def test_what_differs_in_one_option_comes_before_what_differs_in_two():
    """So that a sweep which is cut short has measured what each option does alone."""
    sweep = Sweep(
        strategies=("FULL_SHARD",),
        precisions=("bf16", "fp8", "fp16"),
        modes=("none", "full", "selective"),
        compiles=(True, False),
    )
    names = [way.name.removeprefix("FULL_SHARD ") for way in combinations(sweep)]
    assert names[:6] == [
        "bf16 compile",
        "bf16",
        "fp8 compile",
        "fp16 compile",
        "bf16 full compile",
        "bf16 selective compile",
    ]
    assert len(set(names)) == len(names) == 18
    assert names[-1] == "fp16 selective"


def test_without_a_list_blocks_are_compiled_as_the_option_says():
    for asked in (True, False):
        ways = combinations(Sweep(compile=asked))
        assert {way.compile for way in ways} == {asked}
        assert len(ways) == 5 * 2 * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": ("auto",)}, "must be none, selective or full"),
        ({"precisions": ()}, "precisions = \\(\\) must not be empty"),
        ({"seconds": -1}, "seconds = -1 must be >= 0"),
    ],
)
def test_a_sweep_over_nothing_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Sweep(**options)


def test_a_row_that_was_not_measured_says_why_in_the_table():
    measured = Row(
        *("FULL_SHARD", "bf16", "none", True, 2**31, 1234.5, 0.5, 0.6, 2**30),
        error=1.0,
        first_step_seconds=20.0,
    )
    missing = Row("FULL_SHARD", "fp8", "full", False, 2**40, reason="a | b")
    *_, first, second = table([measured, missing])
    assert first == (
        "| FULL_SHARD | bf16 | none | yes | 1,234 | 50.0% | 60.0% | 1 | 2 | +100.0% | 20.0 |"
    )
    assert second == "| FULL_SHARD | fp8 | full | no | - | - | - | - | 1.02e+03 | a / b | - |"
    assert len(plot([measured, missing]).axes[0].get_legend().get_texts()) == 6


@pytest.mark.slow
def test_a_sweep_prints_each_row_and_publishes_what_its_time_allowed(tmp_path):
    """One fp16 step with its scaler; the second combination is too late and is null."""
    command = [*COMMAND, "--precisions", "fp16", "--modes", "none", "full", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--seconds", "0.01"], capture_output=True, text=True, check=True, timeout=240
    )
    first, second = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert (first["checkpointing"], first["reason"]) == ("none", "")
    assert first["tokens_per_second"] > 0
    assert abs(first["error"]) < 0.1
    assert second["tokens_per_second"] is None
    assert second["reason"] == "not begun: the 0.01 s of the sweep were over"
    folder = tmp_path / "lab1_fsdp_advanced_bench/latest"
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    assert metrics["full_shard.fp16.peak_error"]["value"] == pytest.approx(first["error"])
    assert metrics["full_shard.fp16.full.tokens_per_second"]["value"] is None
    assert metrics["full_shard.fp16.full.tokens_per_second"]["reason"] == second["reason"]
    assert len((folder / "table.md").read_text().splitlines()) == 6
