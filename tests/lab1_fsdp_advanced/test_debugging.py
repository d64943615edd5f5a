"""The hang is found in what the ranks recorded; the rest of the module is tested on real ranks."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab1_fsdp_advanced.debugging import (
    Case,
    Diagnosis,
    Verdict,
    diagnose,
    explain,
    lines_apart,
    run,
    torchfrtrace,
)
from labs.lab1_fsdp_advanced.flight_recorder import Entry, by_group, load
from labs.lab1_fsdp_advanced.rank_log import rank_log
from labs.lab1_fsdp_advanced.stragglers import StepTimes, describe, find_stragglers

ROOT = Path(__file__).resolve().parents[2]
CALLS = [("all_gather", ((4,), (8,))), ("all_reduce", ((8,), (8,))), ("broadcast", ((3,), (3,)))]


def log(*kinds, first=1, size=8):
    return [Entry(first + i, kind, ((size,), (size,))) for i, kind in enumerate(kinds)]


def told(found):
    return found.verdict, found.sequence, found.culprits, found.waiting


def assert_told(found, verdict, sequence, culprits, waiting):
    expected = (verdict, sequence, culprits, waiting)
    assert isinstance(found, Diagnosis), f"diagnose returned {found!r}, expected a Diagnosis"
    assert told(found) == expected, (
        f"(verdict, sequence, culprits, waiting) is {told(found)}, expected {expected}"
    )


@pytest.mark.exercise("1.10")
def test_the_rank_that_did_not_come_is_behind_and_the_others_wait():
    """Rank 1 called one collective, the others three: it is the culprit, at collective 2.

    The stack traces show the opposite: the ranks that wait stand in a collective, and the culprit
    in some ordinary line. Blame those that wait and you debug the healthy ranks.
    """
    ahead = log("all_reduce", "broadcast", "all_reduce")
    found = diagnose({0: ahead, 1: ahead[:1], 2: ahead})
    assert_told(found, Verdict.BEHIND, 2, (1,), (0, 2))


@pytest.mark.exercise("1.10")
def test_what_the_others_wait_in_is_the_first_call_that_lacks_somebody():
    """On a GPU the host runs ahead: rank 0 queued 20 calls, and hangs in the fourth, not the last.

    calls[0] is the entry with the sequence number 4: its kind and its line are what to look at.
    """
    ahead = log(*["all_gather", "all_reduce"] * 10)
    found = diagnose({0: ahead, 1: ahead[:3]})
    assert_told(found, Verdict.BEHIND, 4, (1,), (0,))
    assert dict(found.calls) == {0: ahead[3]}, f"calls is {found.calls}, expected {{0: {ahead[3]}}}"


@pytest.mark.exercise("1.10")
def test_a_rank_without_any_call_is_behind_at_the_first():
    """A rank that died or dawdled before its first collective has an empty record, not no record.

    It is the commonest hang of all: one rank still reads its data, the others wait to begin.
    """
    found = diagnose({0: log("barrier"), 1: []})
    assert_told(found, Verdict.BEHIND, 1, (1,), (0,))


@pytest.mark.exercise("1.10")
def test_ranks_that_call_another_collective_than_most_are_the_culprits():
    """Rank 2 broadcasts where the others reduce: both verdict and number come from that call.

    After it the logs differ everywhere, so later entries say nothing: on gloo and NCCL a call pairs
    up with whatever the others call as their n-th.
    """
    usual = log("all_reduce", "all_reduce", "barrier")
    odd = log("all_reduce", "broadcast", "all_reduce", "barrier")
    found = diagnose({0: usual, 1: usual, 2: odd})
    assert_told(found, Verdict.KIND, 2, (2,), (0, 1))
    kinds = {rank: call.kind for rank, call in found.calls.items()}
    expected = {0: "all_reduce", 1: "all_reduce", 2: "broadcast"}
    assert kinds == expected, f"kinds of calls: {kinds}, expected {expected}"


@pytest.mark.exercise("1.10")
def test_the_same_collective_with_another_size_is_a_mismatch():
    """Rank 1 reduces 9 numbers and the others 8: gloo crashes, NCCL hangs or returns garbage.

    A class more in one rank's data or a layer that only some build is enough. The kinds agree.
    """
    usual, odd = log("all_reduce"), log("all_reduce", size=9)
    found = diagnose({0: usual, 1: odd, 2: usual, 3: usual})
    assert_told(found, Verdict.SIZES, 1, (1,), (0, 2, 3))


@pytest.mark.exercise("1.10")
@pytest.mark.parametrize(
    ("second", "verdict"), [("all_reduce", Verdict.SIZES), ("broadcast", Verdict.KIND)]
)
def test_where_no_call_has_a_majority_all_are_suspects(second, verdict):
    """Of two ranks that differ nobody can say which is wrong: both are culprits, nobody waits.

    A tool that names one all the same (the second, as torch's own does) sends you the wrong way
    half of the time.
    """
    found = diagnose({0: log("all_reduce"), 1: log(second, size=2)})
    assert_told(found, verdict, 1, (0, 1), ())


@pytest.mark.exercise("1.10")
def test_entries_that_the_ring_has_overwritten_are_not_missing():
    """The recorder keeps the last calls only; rank 0, which called more, has forgotten more.

    Nobody is behind at 1 to 4 because rank 0 no longer remembers them. And rank 1 is behind at 3,
    though rank 0's entry for it is gone.
    """
    calls = log(*["all_reduce"] * 6)
    found = diagnose({0: calls[4:], 1: calls[2:]})
    assert_told(found, Verdict.NONE, None, (), ())
    found = diagnose({0: calls[4:], 1: calls[:2]})
    assert_told(found, Verdict.BEHIND, 3, (1,), (0,))


@pytest.mark.exercise("1.10")
def test_a_difference_outranks_an_absence_at_the_same_number():
    """Ranks 0 and 1 already differ in call 1, and rank 2 has not come: the difference is the bug.

    Rank 2 may just be late; two calls that differ never fit, however long you wait.
    """
    found = diagnose({0: log("all_reduce"), 1: log("broadcast"), 2: []})
    assert_told(found, Verdict.KIND, 1, (0, 1), ())


programs = st.lists(st.sampled_from(CALLS), min_size=1, max_size=12)


@st.composite
def jobs(draw, fault):
    """Logs of 2 to 5 ranks that ran one program and parted at a known place, and that place."""
    program = draw(programs)
    ranks = draw(st.integers(2, 5))
    where = draw(st.integers(1, len(program)))
    full = [Entry(i, *call) for i, call in enumerate(program, 1)]
    logs = {rank: list(full) for rank in range(ranks)}
    few = (ranks - 1) // 2 if fault in (Verdict.KIND, Verdict.SIZES) else ranks - 1
    faulty = sorted(draw(st.sets(st.integers(0, ranks - 1), min_size=1, max_size=max(1, few))))
    for rank in faulty:
        if fault is Verdict.BEHIND:
            del logs[rank][where - 1 :]
        elif fault is not Verdict.NONE:
            right = full[where - 1]
            odd = (
                Entry(where, "reduce_scatter", right.sizes)
                if fault is Verdict.KIND
                else Entry(where, right.kind, ((5,), (5,)))
            )
            tail = draw(st.integers(where, len(program)))
            logs[rank][where - 1 :] = [odd, *log(*["barrier"] * (tail - where), first=where + 1)]
    keep = draw(st.integers(len(program) - where + 1, len(program)))  # where is remembered
    shuffled = {rank: draw(st.permutations(entries[-keep:])) for rank, entries in logs.items()}
    tie = fault in (Verdict.KIND, Verdict.SIZES) and 2 * len(faulty) >= ranks
    others = tuple(rank for rank in range(ranks) if rank not in faulty)
    if tie:
        faulty, others = list(range(ranks)), ()
    return shuffled, where, tuple(faulty), others


@pytest.mark.exercise("1.10")
@settings(derandomize=True, deadline=None, max_examples=60)
@given(jobs(Verdict.BEHIND), jobs(Verdict.KIND), jobs(Verdict.SIZES), jobs(Verdict.NONE))
def test_any_fault_in_any_job_is_found_where_it_was_put(behind, kind, sizes, none):
    """Random programs and ranks, entries in random order, oldest ones overwritten.

    The recorder promises no order of its entries, and a real log begins in the middle.
    """
    for verdict, (logs, where, culprits, waiting) in (
        (Verdict.BEHIND, behind),
        (Verdict.KIND, kind),
        (Verdict.SIZES, sizes),
    ):
        assert_told(diagnose(logs), verdict, where, culprits, waiting)
    assert_told(diagnose(none[0]), Verdict.NONE, None, (), ())


def test_no_rank_and_one_rank_cannot_differ():
    assert diagnose({}) == diagnose({3: log("barrier")}) == Diagnosis(Verdict.NONE)


def test_the_lines_part_where_one_call_too_many_still_fits():
    """One call too many of the same kind and size hangs nothing, and shifts all that follow."""
    step = Entry(1, "all_reduce", ((8,), (8,)), lines=("train.py:64 train", "train.py:9 main"))
    steps = [replace(step, sequence=number) for number in range(1, 6)]
    extra = replace(step, sequence=3, lines=("train.py:37 validate", "train.py:9 main"))
    logs = {0: [*steps[:2], extra, *steps[3:]], 1: steps}
    assert diagnose(logs).verdict is Verdict.NONE
    assert lines_apart(logs) == (3, {0: "train.py:37 validate", 1: "train.py:64 train"})
    assert lines_apart({0: steps, 1: steps[:2]}) is None


def raw(name, sequence, kind, size, *, group="0", **other):
    entry = {
        "process_group": [group, name],
        "profiling_name": f"nccl:{kind}",
        "collective_seq_id": sequence,
        "input_sizes": [[size]],
        "output_sizes": [[size]],
        "state": "scheduled",
        "retired": False,
        "is_p2p": False,
        "frames": [
            {"filename": "/x/lib/python3.12/site-packages/torch/c10d.py", "line": 1, "name": "f"},
            {"filename": "/home/me/train.py", "line": 7, "name": "step"},
            {"filename": "<frozen runpy>", "line": 88, "name": "_run_code"},
        ],
    }
    return entry | other


def write(folder, rank, entries, groups):
    record = {"rank": rank, "world": 4, "reason": "hung", "stack": [], "entries": entries}
    (folder / f"rank-{rank}.json").write_text(json.dumps(record | {"groups": groups}))


def test_each_process_group_is_diagnosed_alone(tmp_path):
    """In a (replicate, shard) mesh two groups of other ranks share a name, and all count from 1."""
    for rank in range(4):
        pair, column = [rank // 2 * 2, rank // 2 * 2 + 1], [rank % 2, rank % 2 + 2]
        groups = [
            {"name": "1", "desc": "shard", "ranks": pair},
            {"name": "2", "desc": "replicate", "ranks": column},
        ]
        entries = [raw("shard", 1, "all_gather", 8, group="1")]
        if rank != 3:
            entries.append(raw("replicate", 1, "all_reduce", 4, group="2"))
        write(tmp_path, rank, entries, groups)
    told = explain(tmp_path)
    assert "shard of ranks [0, 1]: no mismatch" in told
    assert "shard of ranks [2, 3]: no mismatch" in told
    assert "replicate of ranks [0, 2]: no mismatch" in told
    assert "replicate of ranks [1, 3]: a rank is behind, at collective 1" in told
    assert "rank 1 waits in all_reduce [4] at train.py:7 step" in told
    assert "rank 3 has not called it" in told


def test_sizes_that_need_not_agree_are_not_compared_and_coalesced_calls_are_one(tmp_path):
    groups = [{"name": "0", "desc": "default_pg", "ranks": [0, 1, 2, 3]}]
    for rank in range(4):
        entries = [
            raw("default_pg", 1, "all_to_all", rank),
            raw("default_pg", 2, "all_reduce", 5, state="completed"),
            raw("default_pg", 2, "all_reduce", 6, state="completed"),
            raw("default_pg", 0, f"send {rank}->0", 1, is_p2p=True),
        ]
        write(tmp_path, rank, entries, groups)
    calls = next(iter(by_group(load(tmp_path)).values()))[2]
    assert [(call.sequence, call.kind, call.sizes, call.done) for call in calls] == [
        (1, "all_to_all", (), False),
        (2, "all_reduce+all_reduce", ((5,), (5,), (6,), (6,)), True),
    ]
    assert explain(tmp_path).endswith("default_pg of ranks [0, 1, 2, 3]: no mismatch")


def test_a_folder_without_records_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"has no rank-\*.json; run the ranks in a Watchdog"):
        explain(tmp_path)


def test_an_unknown_case_is_refused_with_the_names_there_are():
    command = [sys.executable, "-m", "labs.lab1_fsdp_advanced.debugging", "sideways"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "no case is called 'sideways'; try starved, branch" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (
            Case.STARVED,
            [
                "a rank is behind, at collective 5",
                "rank 0 waits in all_reduce [64] at faulty_job.py:* train",
                "rank 1 has not called it; it is at faulty_job.py:* next_batch",
            ],
        ),
        (
            Case.SHIFTED,
            [
                "ranks call different collectives, at collective 9",
                "collective 5 from different lines already:",
                "rank 0 at faulty_job.py:* validate",
                "rank 1 at faulty_job.py:* train",
            ],
        ),
        (
            Case.BRANCH,
            [
                "ranks call different collectives, at collective 5",
                "rank 0 calls broadcast [64] at faulty_job.py:* keep_best",
                "rank 1 calls all_reduce [64] at faulty_job.py:* train",
            ],
        ),
        (Case.SIZES, ["rank 0 crashed: Fatal Python error: Aborted at faulty_job.py:* train"]),
        (Case.CHECKED, ["Detected mismatch between collectives", "Tensor shapes:"]),
        (Case.SLOW, ["rank 1 holds the others up"]),
    ],
)
def test_a_job_with_a_fault_ends_and_says_which(case, expected, tmp_path):
    """Real ranks, a real hang: it ends in seconds, names rank and line, and leaves no process."""
    told = run(case, tmp_path)
    if case is Case.STARVED:  # torch's analyser agrees
        expected = [*expected, "missing ranks: {1}"]
        told += torchfrtrace(tmp_path)
    for text in expected:
        assert re.search(re.escape(text).replace(r"\*", r"\d+"), told), f"no {text!r} in\n{told}"
    # The folder is in each rank's command line.
    assert not [pid for pid, line in running() if str(tmp_path) in line]


@pytest.mark.slow
@pytest.mark.multigpu
def test_a_hang_of_nccl_is_found_by_the_same_code(tmp_path):
    told = run(Case.STARVED, tmp_path, device="cuda", timeout_s=10)
    assert "a rank is behind, at collective 5" in told
    assert "rank 1 has not called it" in told


def running():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.parent.name, path.read_text().replace("\0", " ")
        except OSError:
            continue  # it has just ended


LONELY = """
import os, re, shutil, sys, time
from pathlib import Path
from labs.lab1_fsdp_advanced.distributed import process_group
from labs.lab1_fsdp_advanced.watchdog import Watchdog

with process_group("cpu"), Watchdog(Path(sys.argv[2]), 0, 1, timeout_s=2, grace_s=1) as watchdog:
    print("watched", flush=True)
    if sys.argv[1] == "stuck":
        re.match(r"(a+)+$", "a" * 60 + "b")  # holds the interpreter's lock for ever
    elif sys.argv[1] == "raises":
        raise ValueError("a bad batch")
    elif sys.argv[1] == "stopped":
        for _ in range(600):
            watchdog.beat()
            time.sleep(0.1)
    elif sys.argv[1] == "homeless":
        shutil.rmtree(sys.argv[2])
        time.sleep(60)
    for _ in range(3):
        time.sleep(0.3)
        watchdog.beat()
os._exit(0)
"""


@pytest.mark.parametrize(
    ("what", "status", "reason"),
    [
        ("healthy", 0, None),
        ("raises", 1, "ValueError: a bad batch"),
        ("stopped", 143, "stopped by SIGTERM"),
        ("stuck", 1, None),
        ("homeless", 1, None),
    ],
)
def test_a_rank_leaves_a_record_however_it_ends(what, status, reason, tmp_path):
    """By an exception, by torchrun's SIGTERM, or stuck in code that lets no other thread run.

    Where it can leave none, its folder being gone, it ends all the same.
    """
    command = [sys.executable, "-c", LONELY, what, str(tmp_path)]
    env = {name: value for name, value in os.environ.items() if name != "RANK"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as rank:
        try:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "watched\n"
            if what == "stopped":
                rank.terminate()
            assert rank.wait(20) == status
        finally:
            rank.kill()
    stacks = tmp_path / "rank-0.stacks.txt"
    if what == "stuck":
        assert "Timeout" in stacks.read_text()
        assert explain(tmp_path).startswith("rank 0 crashed: Timeout")
        return
    assert not stacks.exists()
    records = load(tmp_path)
    assert (not records) if reason is None else records[0].reason.startswith(reason)


def measure(ranks):
    import torch
    from torch import nn
    from torch.distributed.fsdp import fully_shard

    from labs.lab1_fsdp_advanced.flight_recorder import flight_record
    from labs.lab1_fsdp_advanced.stragglers import StepTimes, gather

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    loss = model(torch.ones(2, 4)).sum()
    loss.backward()  # this line is looked for
    found = flight_record()
    times = gather(StepTimes([1.0 + ranks.rank], [0.5]))
    return {
        "kinds": [entry["profiling_name"] for entry in found["entries"]],
        "lines": [[frame["name"] for frame in entry["frames"]] for entry in found["entries"]],
        "groups": found["groups"],
        "times": {rank: each.steps for rank, each in times.items()},
    }


@pytest.fixture(scope="module")
def answers(on_ranks):
    return on_ranks(measure)


def test_the_record_of_a_sharded_model_names_the_line_that_called_it(answers):
    """FSDP calls its collectives from hooks; the stack still leads to the program's own line."""
    assert set(answers["kinds"]) >= {"gloo:all_gather", "gloo:all_reduce"}
    assert all("measure" in names for names in answers["lines"])
    assert {"name": "0", "desc": "default_pg", "ranks": [0, 1]} in answers["groups"]


def test_every_rank_gets_the_times_of_all(answers):
    assert answers["times"] == {"0": [1.5], "1": [2.5]}


def test_one_slow_step_accuses_nobody_and_a_slow_rank_is_found_beside_a_slower():
    steady = [1.0, 1.01, 0.99]
    assert find_stragglers({0: steady, 1: [1.0, 9.0, 1.0], 2: steady}) == []
    found = find_stragglers({0: steady, 1: [1.5] * 3, 2: steady, 3: [30.0] * 3, 4: steady})
    assert [(each.rank, round(each.ratio, 1)) for each in found] == [(3, 30.0), (1, 1.5)]


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(st.integers(0, 9), st.floats(0.9, 1.1), min_size=1), st.floats(1.3, 50))
def test_a_straggler_is_found_among_any_number_of_ranks(typical, factor):
    compute = {rank: [seconds] for rank, seconds in typical.items()}
    assert find_stragglers(compute, ratio=1.25) == []
    slow = 10
    compute[slow] = [factor * max(typical.values())]
    assert [each.rank for each in find_stragglers(compute, ratio=1.25)] == [slow]


def test_a_straggler_needs_steps_and_a_ratio_above_one():
    with pytest.raises(InputError, match=r"ratio = 1 must be > 1; try 1.2"):
        find_stragglers({0: [1.0]}, ratio=1)
    with pytest.raises(InputError, match=r"compute\[0\] = \[\] must have at least one step"):
        find_stragglers({0: []})
    assert find_stragglers({}) == []


def test_the_report_shows_equal_steps_and_unequal_work():
    times = {0: StepTimes([0.05] * 3, [0.1] * 3), 1: StepTimes([0.15] * 3, [0.0] * 3)}
    told = describe(times).splitlines()
    assert told[1].split() == ["0", "150.0", "50.0", "100.0"]
    assert told[2].split() == ["1", "150.0", "150.0", "0.0"]
    assert told[3] == "rank 1 holds the others up: 3.0 times the typical rank's work"
    assert "no rank takes 1.2 times" in describe({0: StepTimes([1.0], [0.0])})


def test_each_rank_logs_to_its_own_file_and_only_the_main_one_to_the_console(tmp_path, capsys):
    for rank in (0, 1):
        with rank_log(tmp_path, rank, 2) as logger:
            logger.info("step %d", 7)
            logging.getLogger("loader").debug("too much detail")
    shown = capsys.readouterr().err
    assert "[rank 0/2] INFO rank: step 7" in shown
    assert "[rank 1/2]" not in shown
    assert (tmp_path / "rank-1.log").read_text().count("\n") == 1


def test_what_nobody_catches_is_logged_with_the_rank(tmp_path, capsys):
    """In a thread as well: a loader that dies leaves the rank waiting, and others for it."""
    with pytest.raises(ZeroDivisionError), rank_log(tmp_path, 1, 2):
        loader = threading.Thread(target=lambda: [][0], name="loader")
        loader.start()
        loader.join()
        raise ZeroDivisionError("of the main thread")
    logged = (tmp_path / "rank-1.log").read_text()
    assert "[rank 1/2] CRITICAL rank: uncaught in thread loader" in logged
    assert "IndexError: list index out of range" in logged
    assert "ZeroDivisionError: of the main thread" in logged
    assert "CRITICAL" in capsys.readouterr().err
    files = [getattr(handler, "baseFilename", "") for handler in logging.getLogger().handlers]
    assert not [name for name in files if name.startswith(str(tmp_path))]
