"""A repository of a test's own, with the course's plugin, as a learner's machine sees it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = """
[tool.pytest.ini_options]
pythonpath = ["."]
addopts = "--import-mode=importlib -p common.exercises.pytest_plugin --strict-markers"
markers = ["exercise(id): x", "gpu: x", "multigpu: x", "slow: x"]
"""


def write_tree(root: Path, files: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write ``files`` and the project below ``root``; what the tests' own run set is taken away."""
    for name, text in {"pyproject.toml": PROJECT, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "labs" / "__init__.py", root / "labs" / "__init__.py")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("LABS_WORK", "LABS_REQUIRE_GPU", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    return root
