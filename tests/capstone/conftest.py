"""The real data, loaded once for all tests of the capstone."""

from __future__ import annotations

import pytest

from capstone.data import Feed, prepare
from common.data import load


@pytest.fixture(scope="session")
def feed() -> Feed:
    return prepare(load("ml-100k"))
