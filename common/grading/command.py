"""``course grade``: its options and what it calls; nothing heavy is imported here."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.errors import InputError

DESCRIPTION = "grade every submission of a folder, each confined in a process of its own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``course grade``."""


def run(arguments: argparse.Namespace, root: Path, work: Path) -> int:
    """Exit status as of ``course``: 0 done, 1 failed, 2 bad input (by InputError)."""
    raise InputError("course grade is not built yet")
