"""The two errors a user meets."""

from __future__ import annotations

import pytest

from common.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, InputError, RunError, require


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
