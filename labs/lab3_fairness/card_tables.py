"""The tables of a model card: rows of measured numbers under the names that the words ask for."""

from __future__ import annotations

import re

from common.errors import InputError
from labs.lab3_fairness.card_numbers import Measured, RunResults
from labs.lab3_fairness.card_words import Audit, Line, Words

Row = tuple[str, ...]
GAP = "_difference"  # the ending of a disparity's name; its null and p-value stand beside it
BESIDE = ("_null_q95", "_p")


def audit_rows(audit: Audit, results: RunResults) -> list[Row]:
    """Every gap of an audit, with its interval and what chance gives.

    Raises
    ------
    InputError
        When the audit has no gap, or a gap lacks its interval or its null: half a disparity is
        the half that alarms or the half that soothes.
    """
    everything = (*results.metrics, *results.unmeasured)
    names = [n for n in everything if n.startswith(f"{audit.prefix}.") and n.endswith(GAP)]
    if not names:
        results.lookup(f"{audit.prefix}.*{GAP}")
    rows: list[Row] = []
    for name in names:
        stem = name.removesuffix(GAP)
        gap = results.lookup(name)
        null, p_value = (results.lookup(stem + ending) for ending in BESIDE)
        if gap.ci95 is None:
            raise InputError(f"metric {name!r} has no interval; a gap is not shown without one")
        label = f"{words_of(stem.removeprefix(f'{audit.prefix}.'))}, {audit.label}"
        rows.append((cell(label), gap.shown, gap.interval, gap.counted, null.shown, p_value.shown))
    return rows


def mitigation_rows(results: RunResults, words: Words) -> tuple[list[Row], str]:
    """One row a method, the untouched model first; and the reason when there is none."""
    wanted = words.mitigation
    shape = re.compile(
        rf"{re.escape(wanted.prefix)}\.([^.]+)\.({'|'.join(map(re.escape, wanted.measures))})"
    )
    matches = [shape.fullmatch(name) for name in (*results.metrics, *results.unmeasured)]
    methods = dict.fromkeys(match.group(1) for match in matches if match)
    others = [method for method in methods if method != wanted.base]
    if not others:
        if wanted.optional:
            return [], "this run compared no mitigation with the model"
        results.lookup(f"{wanted.prefix}.<method>.{wanted.measures[0]}")
    rows: list[Row] = []
    for method in (wanted.base, *others):
        cells, counts = [], []
        for measure in wanted.measures:
            name = f"{wanted.prefix}.{method}.{measure}"
            reason = results.reason(name) if wanted.optional else None
            if reason:
                cells.append(cell(f"not measured: {reason}"))
            else:
                metric = results.lookup(name)
                cells.append(f"{metric.shown} ({metric.interval})")
                counts.append(metric.counted)
        rows.append((cell(words_of(method)), *cells, " / ".join(dict.fromkeys(counts))))
    return rows, ""


def explanation_rows(results: RunResults, words: Words) -> tuple[list[Row], str]:
    """Every metric below the prefix; and the reason when there is none."""
    prefix = f"{words.explanations.prefix}."
    names = [n for n in (*results.metrics, *results.unmeasured) if n.startswith(prefix)]
    if not names:
        if not words.explanations.optional:
            results.lookup(f"{prefix}*")
        return [], "this run tested no explanation"
    optional = words.explanations.optional
    lines = [Line(name, words_of(name.removeprefix(prefix)), optional=optional) for name in names]
    return [table_row(line, results) for line in lines], ""


def table_row(line: Line, results: RunResults) -> Row:
    """Label, value, interval, n; or that it was not measured, and why."""
    reason = results.reason(line.metric) if line.optional else None
    if reason:
        return cell(line.label), cell(f"not measured: {reason}"), "", ""
    metric: Measured = results.lookup(line.metric)
    return cell(line.label), metric.shown, metric.interval, metric.counted


def words_of(name: str) -> str:
    """A metric's name as a reader sees it: ``lime 500, spread``."""
    return name.replace("_", " ").replace(".", ", ")


def cell(text: str) -> str:
    """A text on one line of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def table_cells(text: str) -> list[list[str]]:
    """The rows of a written text's Markdown tables, as cells; what is commented out is none."""
    lines = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).splitlines()
    rows = [re.split(r"(?<!\\)\|", line.strip())[1:] for line in lines if line.startswith("|")]
    return [[each.strip().replace("\\|", "|") for each in row] for row in rows if row]


def states(text: str, metric: Measured) -> bool:
    """Whether a cell holds the metric's value, to four digits, and nothing but it and its unit."""
    number, _, unit = text.partition(" ")
    try:
        found = float(number.replace(",", ""))
    except ValueError:
        return False
    digits = max(4, len(str(int(abs(metric.value)))))  # none before the point is rounded away
    rounded = float(f"{metric.value:.{digits}g}")
    return unit in ("", metric.unit) and found in (metric.value, rounded)
