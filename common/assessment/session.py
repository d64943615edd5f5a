"""Asking the questions in a terminal: each answer is kept at once, so it can stop anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from common.assessment.bank import Asked
from common.assessment.state import State, parse_answer
from common.errors import InputError

KEYS = "s skip, b back, q stop for now"


def ask(
    paper: Sequence[Asked],
    state: State,
    save: Callable[[], None],
    console: Console,
    read: Callable[[str], str] = input,
) -> None:
    """Ask what is open, from the first open question on.

    Parameters
    ----------
    paper
        The questions, drawn.
    state
        Receives the answers. In practice an answer stands, because the solution is shown after it;
        in an exam it can be changed until the paper is handed in.
    save
        Called after every change of ``state``.
    read
        Asks for a line; EOFError (Ctrl-D) and KeyboardInterrupt (Ctrl-C) stop, as ``q`` does.
    """
    at = _open(paper, state, 0)
    if at == len(paper):
        at = 0 if state.exam and not all(map(state.closed, paper)) else at
    try:
        while at < len(paper):
            at = _one(paper, at, state, save, console, read)
        if state.exam and not all(map(state.closed, paper)):
            _hand_in(paper, state, save, console, read)
    except (EOFError, KeyboardInterrupt):
        console.print()
    answered = sum(state.given(asked) is not None for asked in paper)
    console.print(f"{answered} of {len(paper)} questions answered, everything is saved")


def _open(paper: Sequence[Asked], state: State, start: int) -> int:
    """The first question from ``start`` on without an answer, or the end."""
    found = (at for at in range(start, len(paper)) if state.given(paper[at]) is None)
    return next(found, len(paper))


def _one(
    paper: Sequence[Asked],
    at: int,
    state: State,
    save: Callable[[], None],
    console: Console,
    read: Callable[[str], str],
) -> int:
    """Show one question, take one line; the next one to show."""
    asked, given = paper[at], state.given(paper[at])
    _show(asked, at, len(paper), given, console)
    if state.closed(asked):
        explain(asked, given, console)
        line = read("Enter to go on, b back, q stop > ").strip().lower()
        if line == "q":
            raise EOFError
        return max(0, at - 1) if line == "b" else _open(paper, state, at + 1)
    while True:
        line = read(f"your answer ({KEYS}) > ").strip()
        if line.lower() == "q":
            raise EOFError
        if line.lower() == "b":
            return max(0, at - 1)
        if line.lower() == "s" or (not line and given is not None):
            return at + 1 if state.exam else _open(paper, state, at + 1)
        try:
            if not line:
                raise InputError(f"give an answer, or {KEYS}")
            state.answer(asked, parse_answer(asked, line))
        except InputError as error:
            console.print(f"[yellow]{escape(str(error))}[/]")
            continue
        save()
        if state.closed(asked):
            explain(asked, state.given(asked), console)
        return at + 1 if state.exam else _open(paper, state, at + 1)


def _show(asked: Asked, at: int, count: int, given: float | None, console: Console) -> None:
    console.print()
    console.rule(f"{at + 1} of {count} · {asked.id} · {asked.question.lab}", align="left")
    console.print(Padding(escape(asked.prompt), (1, 0)))
    for number, option in enumerate(asked.options, start=1):
        console.print(Padding(f"[bold]{number}[/]  {escape(option)}", (0, 0, 0, 2)))
    if not asked.options:
        unit = f" in {asked.question.unit}" if asked.question.unit else ""
        console.print(
            f"  a number{escape(unit)}, within {asked.question.tolerance:.0%}; "
            "arithmetic is computed, as in 16 * 7e9 / 8",
            style="dim",
        )
    if given is not None:
        console.print(f"  answered: {escape(asked.shown(given))}", style="dim")
    console.print()


def explain(asked: Asked, given: float | None, console: Console) -> None:
    """Whether an answer is right, which one is, and why."""
    if given is None:
        console.print(f"[yellow]not answered[/]; right is: {escape(asked.shown(asked.answer))}")
    elif asked.right(given):
        console.print(f"[green]right[/]: {escape(asked.shown(asked.answer))}")
    else:
        console.print(f"[red]wrong[/]; right is: {escape(asked.shown(asked.answer))}")
    console.print(escape(asked.why))


def _hand_in(
    paper: Sequence[Asked],
    state: State,
    save: Callable[[], None],
    console: Console,
    read: Callable[[str], str],
) -> None:
    """Ask whether the exam is done; afterwards its answers stand."""
    left = sum(state.given(asked) is None for asked in paper)
    console.print(f"\nThat was the last question; {left} of {len(paper)} are without an answer.")
    if read("hand in, so that the answers stand and the solutions are shown? (y/n) > ").strip() in (
        "y",
        "yes",
    ):
        labs = dict.fromkeys(asked.question.lab for asked in paper)
        state.finished = list(dict.fromkeys([*state.finished, *labs]))
        save()
        for asked in paper:
            console.print(f"\n[bold]{asked.id}[/] {escape(asked.prompt)}")
            explain(asked, state.given(asked), console)
