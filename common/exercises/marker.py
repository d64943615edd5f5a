"""The marker that makes a function of a lab an exercise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T", bound=Callable[..., object])


@dataclass(frozen=True)
class Exercise:
    """One exercise: ``id`` is ``"<lab number>.<number>"``."""

    id: str
    points: int
    title: str
    hint: str


def exercise(id: str, *, points: int, title: str, hint: str) -> Callable[[T], T]:
    """Mark a function or class as an exercise; it stays exactly what it was at run time.

    The stub, the checks and the grade are made from the source text of this call, so every
    argument must be a literal.
    """
    marked = Exercise(id, points, title, hint)

    def mark(target: T) -> T:
        target.__exercise__ = marked  # type: ignore[attr-defined]
        return target

    return mark
