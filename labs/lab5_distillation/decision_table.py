"""From requirements to a choice: what each candidate meets, misses, or may meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Literal

from common.errors import require
from labs.lab5_distillation.frontier import Candidate
from labs.lab5_distillation.retention import Interval

if TYPE_CHECKING:
    from rich.table import Table

Verdict = Literal["meets", "misses", "uncertain", "not measured"]
Preference = Literal["size_mb", "latency_ms", "texts_per_s"]
WORDS = {"size_mb": "smallest", "latency_ms": "fastest", "texts_per_s": "fastest"}


@dataclass(frozen=True)
class Requirement:
    """What the place where the model will run asks for; None asks for nothing.

    Attributes
    ----------
    max_mb
        MB of 10^6 bytes on disk.
    min_accuracy, min_retention
        0 to 1; met where the whole interval is above.
    max_ms
        Median latency of one text, one thread.
    min_texts_per_s
        One thread.
    """

    max_mb: float | None = None
    min_accuracy: float | None = None
    min_retention: float | None = None
    max_ms: float | None = None
    min_texts_per_s: float | None = None

    def __post_init__(self) -> None:
        asked = {each.name: getattr(self, each.name) for each in fields(self)}
        given = {name: value for name, value in asked.items() if value is not None}
        require(bool(given), "requirement", None, "must ask for something", "try max_mb=16")
        for name, value in given.items():
            require(value > 0, name, value, "must be > 0")
        if self.min_accuracy is not None:
            require(self.min_accuracy <= 1, "min_accuracy", self.min_accuracy, "must be <= 1")


@dataclass(frozen=True)
class Check:
    """One requirement on one candidate; ``limit`` and ``measured`` as they are printed."""

    name: str
    limit: str
    measured: str
    verdict: Verdict


@dataclass(frozen=True)
class Row:
    """A candidate and its checks."""

    candidate: Candidate
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks."""
        found = {check.verdict for check in self.checks}
        order: tuple[Verdict, ...] = ("misses", "not measured", "uncertain", "meets")
        return next(verdict for verdict in order if verdict in found)


@dataclass(frozen=True)
class Decision:
    """The table, the choice (None if no candidate surely meets all), and why in a sentence."""

    rows: tuple[Row, ...]
    choice: Candidate | None
    why: str

    @property
    def header(self) -> tuple[str, ...]:
        """Titles of the columns of `lines`."""
        return ("candidate", *(f"{c.name} {c.limit}" for c in self.rows[0].checks), "verdict")

    @property
    def lines(self) -> tuple[tuple[str, ...], ...]:
        """One line of text cells for each candidate; the chosen one is marked in the last."""
        return tuple(
            (
                row.candidate.label,
                *(
                    f"{check.measured} ({check.verdict})"
                    if check.verdict != "not measured"
                    else check.verdict
                    for check in row.checks
                ),
                "chosen" if row.candidate is self.choice else row.verdict,
            )
            for row in self.rows
        )


def decide(
    candidates: Sequence[Candidate], requirement: Requirement, prefer: Preference = "size_mb"
) -> Decision:
    """The smallest or fastest candidate that surely meets every requirement.

    An accuracy or a retention is met where its interval lies above the limit, missed where it lies
    below, and uncertain where it contains the limit. An uncertain candidate is not chosen, and is
    named.

    Parameters
    ----------
    prefer
        Among those that meet all: ``"size_mb"`` the smallest, ``"latency_ms"`` the one with the
        least latency, ``"texts_per_s"`` the one with the most texts a second. At a tie the more
        accurate.
    """
    require(len(candidates) >= 1, "candidates", len(candidates), "must be at least 1")
    require(prefer in WORDS, "prefer", prefer, f"must be one of {', '.join(WORDS)}")
    rows = tuple(Row(each, checks(each, requirement)) for each in candidates)

    def rank(row: Row) -> tuple[float, float]:
        value = getattr(row.candidate, prefer)
        sign = -1 if prefer == "texts_per_s" else 1
        return (float("inf") if value is None else sign * value, -row.candidate.accuracy)

    meets = sorted((row for row in rows if row.verdict == "meets"), key=rank)
    unsure = sorted((row for row in rows if row.verdict == "uncertain"), key=rank)
    if meets:
        chosen = meets[0]
        why = f"{chosen.candidate.label} is the {WORDS[prefer]} of {len(meets)} that meet all"
        better = [row for row in unsure if rank(row) < rank(chosen)]
    else:
        why = _nearest(rows)
        better = unsure
    if better:
        names = "; ".join(f"{row.candidate.label} ({_doubt(row)})" for row in better)
        why += f". More seeds or texts may admit {names}"
    return Decision(rows, meets[0].candidate if meets else None, why + ".")


def checks(candidate: Candidate, requirement: Requirement) -> tuple[Check, ...]:
    """Each requirement that was asked for, on one candidate."""
    c, r = candidate, requirement
    found = [
        _at_most("size, MB", c.size_mb, r.max_mb, "{:.1f}"),
        _at_least("accuracy", c.accuracy, c.accuracy_ci95, r.min_accuracy),
        _at_least("retention", c.retention, c.retention_ci95, r.min_retention),
        _at_most("latency, ms", c.latency_ms, r.max_ms, "{:.2f}"),
        _at_least("texts/s", c.texts_per_s, None, r.min_texts_per_s, "{:,.0f}"),
    ]
    return tuple(check for check in found if check is not None)


def _at_most(name: str, value: float | None, limit: float | None, form: str) -> Check | None:
    if limit is None:
        return None
    told = f"≤ {limit:g}"
    if value is None:
        return Check(name, told, "", "not measured")
    return Check(name, told, form.format(value), "meets" if value <= limit else "misses")


def _at_least(
    name: str,
    value: float | None,
    interval: Interval | None,
    limit: float | None,
    form: str = "{:.4f}",
) -> Check | None:
    if limit is None:
        return None
    told = f"≥ {limit:g}"
    if value is None:
        return Check(name, told, "", "not measured")
    low, high = (value, value) if interval is None else interval
    shown = form.format(value)
    if interval is not None:
        shown += f" [{form.format(low)}, {form.format(high)}]"
    verdict: Verdict = "meets" if low >= limit else "misses" if high < limit else "uncertain"
    return Check(name, told, shown, verdict)


def _nearest(rows: Sequence[Row]) -> str:
    """What stood in the way of the candidate that misses fewest requirements."""
    unmet = {id(row): [c for c in row.checks if c.verdict != "meets"] for row in rows}
    best = min(rows, key=lambda row: (len(unmet[id(row)]), -row.candidate.accuracy))
    reasons = ", ".join(
        f"{c.name} {c.measured or c.verdict}, asked {c.limit}" for c in unmet[id(best)]
    )
    return f"no candidate surely meets all; {best.candidate.label} comes nearest: {reasons}"


def _doubt(row: Row) -> str:
    return ", ".join(f"{c.name} {c.measured}" for c in row.checks if c.verdict == "uncertain")


def to_markdown(decision: Decision) -> str:
    """The table and the sentence as Markdown."""
    cells = [decision.header, ("---",) * len(decision.header), *decision.lines]
    table = "\n".join("| " + " | ".join(line) + " |" for line in cells)
    return f"{table}\n\n{decision.why}\n"


def to_html(decision: Decision) -> str:
    """The table and the sentence as HTML, escaped."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(cells, "td") for cells in decision.lines)
    head = line(decision.header, "th")
    return f"<table>\n{head}\n{body}\n</table>\n<p>{escape(decision.why)}</p>\n"


def to_rich(decision: Decision) -> Table:
    """The table for a terminal; the sentence is its caption."""
    from rich.markup import escape as plain
    from rich.table import Table

    table = Table(caption=plain(decision.why))
    for title in decision.header:
        table.add_column(title)
    for cells in decision.lines:
        table.add_row(*map(plain, cells))
    return table
