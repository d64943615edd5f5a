"""What the tests of the lab share."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.fixture
def econml(monkeypatch: pytest.MonkeyPatch) -> None:
    """EconML, imported without Ray, which it would import where it is installed.

    Ray reads its settings once, when it is imported, and must find those of a cluster that listens
    on loopback only. The tests of Lab 2 run in the same process and check that.
    """
    with monkeypatch.context() as patch:
        if "ray" not in sys.modules:
            patch.setitem(sys.modules, "ray", None)
        for name in ("dr", "iv.dml", "metalearners"):
            importlib.import_module(f"econml.{name}")
