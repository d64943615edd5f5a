"""Show a silent failure: the wrong number beside the right one, and why."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.errors import EXIT_OK, InputError, exit_status
from common.exercises.unsolved import advice


@dataclass(frozen=True)
class Trap:
    """What one trap measured. ``wrong`` and ``right`` are (label, value) pairs."""

    title: str
    wrong: tuple[str, object]
    right: tuple[str, object]
    why: str


def show(traps: Sequence[Callable[[], Trap]]) -> None:
    """Run each trap and print what it shows; arguments on the command line select by name.

    One that needs an exercise which is not solved yet says so. An error ends the program with the
    exit status it means.
    """
    if status := exit_status(lambda: _show(traps)):
        raise SystemExit(status)


def _show(traps: Sequence[Callable[[], Trap]]) -> int:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, emoji=False)
    asked = sys.argv[1:]
    by_name = {trap.__name__: trap for trap in traps}
    if unknown := [name for name in asked if name not in by_name]:
        names = ", ".join(by_name)
        raise InputError(f"no trap is called {unknown[0]!r}; the traps here: {names}")
    for trap in [by_name[name] for name in asked] or traps:
        start = time.perf_counter()
        try:
            result = trap()
        except NotImplementedError as error:
            if (needed := advice(error)) is None:
                raise
            console.print(f"\n[dim]{escape(f'{trap.__name__}: {needed}')}[/dim]", soft_wrap=True)
            continue
        took = time.perf_counter() - start
        width = max(len(result.wrong[0]), len(result.right[0]))
        title = escape(result.title)
        console.print(f"\n[bold]{title}[/bold]  [dim]({trap.__name__}, {took:.1f} s)[/dim]")
        for colour, word, (label, value) in (
            ("red", "wrong", result.wrong),
            ("green", "right", result.right),
        ):
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
            console.print(
                f"  [{colour}]{word}[/{colour}]  {escape(f'{label:<{width}}  {shown}')}",
                soft_wrap=True,
            )
        console.print(f"  {result.why}", markup=False)
    return EXIT_OK
