"""Progress with an estimate: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY_S = 10.0


class Progress:
    """``with Progress("train", total=100) as bar: bar.update(5, "loss 0.3")``."""

    def __init__(self, description: str, total: int | None) -> None:
        self.description, self.total = description, total
        self._done, self._text = 0, ""
        self._last_line = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._bar = None
        if sys.stdout.isatty():
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("  {task.description}", markup=False),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[text]}", markup=False),
                transient=True,
            )
            self._task = self._bar.add_task(description, total=total, text="")

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int, text: str = "") -> None:
        """``done`` of ``total`` so far; ``text`` is shown behind (a loss, a rate)."""
        self._done, self._text = done, text
        if self._bar:
            self._bar.update(self._task, completed=done, total=self.total, text=text)
            return
        now = time.monotonic()
        if self._first is None:  # what came before is set-up, and says nothing about the rate
            self._first = (now, done)
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            print(f"  {self._line(now - self._first[0], done - self._first[1])}", flush=True)

    def _line(self, elapsed: float, counted: int) -> str:
        line = f"{self.description} {self._done}"
        if self.total:
            line += f"/{self.total}"
        if self.total and counted:
            line += f", about {elapsed / counted * (self.total - self._done):.0f} s left"
        return f"{line}  {self._text}".rstrip()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with progress; ``total`` is taken from ``len(items)`` when it has one."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(description, total) as bar:
        for done, item in enumerate(items, 1):
            yield item
            bar.update(done)
