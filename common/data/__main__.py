"""``python -m common.data`` lists the datasets; ``python -m common.data fetch NAME`` gets one."""

from __future__ import annotations

import argparse
import sys

from common.data import load
from common.data.fetch import cache_folder, is_cached
from common.data.registry import REGISTRY
from common.errors import EXIT_OK, exit_status


def main(arguments: list[str] | None = None) -> int:
    """List or fetch; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m common.data", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    fetch = commands.add_parser("fetch", help="get datasets into the cache")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="a dataset, or all")
    chosen = parser.parse_args(arguments)

    def command() -> int:
        if chosen.command == "fetch":
            _fetch(list(REGISTRY) if chosen.names == ["all"] else chosen.names)
        else:
            _list()
        return EXIT_OK

    return exit_status(command, interrupted="interrupted: nothing half-written was kept")


def _fetch(names: list[str]) -> None:
    for name in names:
        provenance = load(name).provenance
        rows = f", {provenance.rows:,} rows" if provenance.rows else ""
        print(f"{name}: verified, from {provenance.source}{rows}")


def _list() -> None:
    print(f"cache: {cache_folder()}\n")
    for entry in REGISTRY.values():
        print(f"{entry.name:<13} {_status(entry.name):<11} {_size(entry.name):>9}  {entry.title}")
        print(f"{'':<36}licence: {entry.licence}")


def _status(name: str) -> str:
    if name == "docstrings":
        from common.data.docstrings import is_made

        return "cached" if is_made() else "not cached"
    return "cached" if is_cached(REGISTRY[name]) else "not cached"


def _size(name: str) -> str:
    total = sum(file.size for file in REGISTRY[name].files)
    return f"{total / 1e6:.1f} MB" if total else "-"


if __name__ == "__main__":
    sys.exit(main())
