"""Tests with known answers, made anew for each run: those that must fail have to fail.

They go through the same pytest, the same comparisons and the same channel as the exercise's tests.
Which of them fails is drawn for each run and known only outside the sandbox, so a submission that
made every comparison agree, or every report a pass, gives itself away.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

HEADER = '''"""Known answers."""

import math
import operator
import unittest

import numpy as np
import pytest
{torch}

FIRST, SECOND = {first}, {second}
'''
PLAIN = {
    "assertion": "assert FIRST + 1 == {right}",
    "comparison": "assert operator.eq(FIRST * 2, {right} + FIRST - 1)",
    "array": "np.testing.assert_allclose(np.full(3, FIRST + 1.0), {right} * np.ones(3))",
    "equal_array": "np.testing.assert_array_equal(np.ones(3) * (FIRST + 1), np.ones(3) * {right})",
    "close": "assert np.allclose(np.full(3, FIRST + 1.0), {right})",
    "array_equal": "assert np.array_equal([FIRST + 1], [{right}])",
    "approximate": "assert FIRST + 1.0 == pytest.approx({right})",
    "math": "assert math.isclose(FIRST + 1.0, {right})",
    "all": "assert all([True, FIRST + 1 == {right}])",
    "sum": "assert sum([FIRST, 1]) == {right}",
    "length": "assert len(range(FIRST + 1)) == {right}",
    "largest": "assert abs(max(FIRST + 1, 0) - {right}) < 0.5",
    "unittest": "unittest.TestCase().assertEqual(FIRST + 1, {right})",
    "exception": "\n    ".join(
        (
            "with pytest.raises(ValueError):",
            "    if FIRST + 1 == {right}:",
            "        raise ValueError",
        )
    ),
}
TORCH = {
    "torch": "torch.testing.assert_close(torch.tensor([FIRST + 1.0]), torch.tensor([{right}.0]))",
    "torch_close": "assert torch.allclose(torch.tensor([FIRST + 1.0]), torch.tensor([{right}.0]))",
    "torch_equal": "assert torch.equal(torch.tensor([FIRST + 1]), torch.tensor([{right}]))",
}


@dataclass(frozen=True)
class Canary:
    """One test: its node id, and whether it passes in a sound process."""

    node: str
    passes: bool


def write(folder: Path, below: str, *, torch: bool) -> tuple[list[Canary], list[Canary]]:
    """Write two files of such tests: for before and for after the exercise's own.

    Parameters
    ----------
    folder
        Where the files are written.
    below
        The folder's place below the root of the tests, for node ids.
    torch
        Whether the lab uses torch; its comparisons are then watched too.
    """
    return _file(folder, below, torch=torch), _file(folder, below, torch=torch)


def _file(folder: Path, below: str, *, torch: bool) -> list[Canary]:
    draw = secrets.SystemRandom()
    name = f"test_{secrets.token_hex(6)}.py"
    bodies = PLAIN | (TORCH if torch else {})
    chosen = list(bodies.values())
    draw.shuffle(chosen)
    first = draw.randrange(10, 10_000)
    text = [
        HEADER.format(torch="import torch" if torch else "", first=first, second=first + 1),
    ]
    canaries = []
    for body in [*chosen, draw.choice(chosen)]:
        passes = draw.random() < 0.3
        test = f"test_{secrets.token_hex(5)}"
        right = first + 1 if passes else first + draw.randrange(2, 9)
        text.append(f"\ndef {test}():\n    {body.format(right=right)}\n")
        canaries.append(Canary(f"{below}/{name}::{test}", passes))
    folder.joinpath(name).write_text("\n".join(text), encoding="utf-8")
    return canaries
