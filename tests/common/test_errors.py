"""The two errors a user meets, and how a program answers for them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Container

import pytest

from common.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    InputError,
    RunError,
    exit_status,
    require,
)

FULL = OSError(errno.ENOSPC, "No space left on device", "/data/out")
BROKEN = BrokenPipeError(errno.EPIPE, "Broken pipe")


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


def test_require_names_value_limit_and_fix() -> None:
    with pytest.raises(InputError) as refusal:
        require(False, "--alpha", "1.5", "must be below 1", "try 0.05")
    assert str(refusal.value) == "--alpha = '1.5' must be below 1; try 0.05"
    with pytest.raises(InputError, match=r"^steps = 0 must be > 0$"):
        require(False, "steps", 0, "must be > 0")


def test_require_lets_what_holds_pass() -> None:
    require(True, "steps", 1, "must be > 0")


def test_callers_may_catch_them_as_what_they_are() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(RunError, RuntimeError)
    assert (EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT) == (0, 1, 2)
    assert EXIT_INTERRUPTED == 128 + 2, "what a shell says of SIGINT"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("k = 0 must be > 0"), 2, "error: k = 0 must be > 0"),
        (RunError("the server died"), 1, "error: the server died"),
        (KeyboardInterrupt(), 130, "error: interrupted: nothing is left running"),
        (FULL, 1, "error: /data/out: No space left on device"),
        (OSError(errno.EIO, "Input/output error"), 1, "error: Input/output error"),
        (TimeoutError(), 1, "error: TimeoutError"),
    ],
)
def test_an_error_is_one_line_and_the_status_it_means(
    error: BaseException, status: int, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every program of the course answers alike, so a script can tell bad input from a failure."""
    assert exit_status(raising(error)) == status
    assert capfd.readouterr() == ("", f"{line}\n")


def test_a_command_that_ends_well_keeps_its_own_status() -> None:
    """A check that fails is no error: its status 1 comes without another word."""
    assert [exit_status(lambda: EXIT_OK), exit_status(lambda: EXIT_FAILED)] == [0, 1]


@pytest.mark.parametrize(("error", "told"), [(FULL, ()), (BROKEN, ()), (ValueError("bug"), None)])
def test_a_mistake_of_the_program_is_not_told_as_the_users(
    error: Exception, told: Container[int] | None
) -> None:
    """One line would hide where it came from."""
    with pytest.raises(type(error)):
        exit_status(raising(error), told=told)


def test_a_program_whose_output_was_closed_ends_as_any_other(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``>&-``: Python has no standard output then, and the error still goes to the other."""
    monkeypatch.setattr(sys, "stdout", None)
    assert exit_status(lambda: EXIT_OK) == 0
    assert exit_status(raising(RunError("the server died"))) == 1
    assert capfd.readouterr().err == "error: the server died\n"


def test_where_an_error_came_from_is_shown_on_demand(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``LABS_TRACEBACK=1`` works for every command, as the README promises."""
    monkeypatch.setenv("LABS_TRACEBACK", "1")
    exit_status(raising(RunError("the server died")))
    said = capfd.readouterr().err
    assert said.startswith("Traceback"), said
    assert said.endswith("\nerror: the server died\n"), said


@pytest.mark.parametrize("arguments", [["course", "list"], ["data"]])
def test_a_reader_that_has_seen_enough_is_not_told(arguments: list[str]) -> None:
    """``course list | head`` and ``python -m common.data | head`` end without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    module = {"course": "common.exercises.cli", "data": "common.data"}[arguments[0]]
    with os.fdopen(writing, "wb") as stream:
        ended = subprocess.run(
            [sys.executable, "-m", module, *arguments[1:]],
            stdout=stream, stderr=subprocess.PIPE, timeout=60,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (1, b""), ended
