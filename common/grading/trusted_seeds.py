"""Other inputs than the public ones: a secret goes into every seed that a test file draws from.

A submission that knows the inputs of the public tests by heart meets inputs it has not seen. A
test whose own answer hangs on a seed is named in the manifest and keeps it: the reference has
passed every test under the very seeds that submissions meet.
"""

from __future__ import annotations

import os
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def install(
    secret: int | None, tests: Path, fixed: frozenset[str]
) -> Callable[[pytest.Item], None]:
    """Mix ``secret`` into the seeds of calls that stand in test files.

    Parameters
    ----------
    secret
        None leaves every seed as it stands.
    tests
        The folder whose files are meant.
    fixed
        Node ids, without parameters, of tests that keep their seeds.

    Returns
    -------
    callable
        To be called with each test before it runs.
    """
    state = {"on": secret is not None}
    inside = str(tests) + os.sep
    add = 0 if secret is None else secret
    frame = sys._getframe

    def from_a_test() -> bool:
        return state["on"] and frame(2).f_code.co_filename.startswith(inside)

    real_rng, real_seed, real_random = np.random.default_rng, np.random.seed, random.seed

    def default_rng(seed: Any = None) -> np.random.Generator:
        if isinstance(seed, int | np.integer) and seed >= 0 and from_a_test():
            return real_rng([add, int(seed)])
        return real_rng(seed)

    def legacy_seed(seed: Any = None) -> None:
        if isinstance(seed, int | np.integer) and from_a_test():
            seed = (int(seed) + add) % (1 << 32)
        real_seed(seed)

    def python_seed(seed: Any = None, version: int = 2) -> None:
        if isinstance(seed, int) and from_a_test():
            seed += add
        real_random(seed, version)

    np.random.default_rng = default_rng
    np.random.seed = legacy_seed
    random.seed = python_seed  # type: ignore[assignment]
    if "torch" in sys.modules:
        torch: Any = sys.modules["torch"]
        real_torch = torch.manual_seed

        def manual_seed(seed: int) -> Any:
            if isinstance(seed, int) and from_a_test():
                seed = (seed + (add << 8)) % (1 << 62)
            return real_torch(seed)

        torch.manual_seed = torch.random.manual_seed = manual_seed

    def before(item: pytest.Item) -> None:
        node = item.nodeid.partition("[")[0]
        state["on"] = secret is not None and node not in fixed
        if state["on"]:
            _free_hypothesis(item, zlib.crc32(f"{secret}:{item.nodeid}".encode()))

    return before


def _free_hypothesis(item: pytest.Item, seed: int) -> None:
    """Examples drawn from ``seed`` instead of from a digest of the test."""
    function = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    settings = getattr(function, "_hypothesis_internal_use_settings", None)
    if settings is None:
        return
    from hypothesis import settings as make

    function._hypothesis_internal_use_settings = make(  # type: ignore[union-attr]
        settings, derandomize=False, database=None
    )
    function._hypothesis_internal_use_seed = seed  # type: ignore[union-attr]
