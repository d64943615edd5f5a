"""Show a silent failure: the wrong number beside the right one, and why."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trap:
    """What one trap measured. ``wrong`` and ``right`` are (label, value) pairs."""

    title: str
    wrong: tuple[str, object]
    right: tuple[str, object]
    why: str


def show(traps: Sequence[Callable[[], Trap]]) -> None:
    """Run each trap and print what it shows; arguments on the command line select by name."""
    from rich.console import Console

    console = Console(highlight=False)
    chosen = [trap for trap in traps if not sys.argv[1:] or trap.__name__ in sys.argv[1:]]
    if not chosen:
        names = ", ".join(trap.__name__ for trap in traps)
        console.print(f"error: no trap is called {sys.argv[1]!r}; the traps here: {names}")
        raise SystemExit(2)
    for trap in chosen:
        start = time.perf_counter()
        result = trap()
        took = time.perf_counter() - start
        width = max(len(result.wrong[0]), len(result.right[0]))
        console.print(f"\n[bold]{result.title}[/bold]  [dim]({trap.__name__}, {took:.1f} s)[/dim]")
        for colour, word, (label, value) in (
            ("red", "wrong", result.wrong),
            ("green", "right", result.right),
        ):
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
            console.print(
                f"  [{colour}]{word}[/{colour}]  {label:<{width}}  {shown}", soft_wrap=True
            )
        console.print(f"  {result.why}")
