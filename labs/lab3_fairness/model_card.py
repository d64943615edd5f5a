"""Write a model card from what a run measured and what people said, and nothing else.

    python -m labs.lab3_fairness.model_card RESULTS.json --words words.toml --out CARD.md

Exit status 2 when a number is missing, a figure was typed, or a file cannot be used; 0 when the
card was written, whole.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from common.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, InputError, RunError
from labs.lab3_fairness.card_numbers import (
    Measured,
    RunResults,
    formatted,
    read_results,
    untraceable,
)
from labs.lab3_fairness.card_words import (
    PLACEHOLDER,
    Audit,
    Line,
    People,
    Words,
    check_prose,
    read_words,
)

TEMPLATE = Path(__file__).with_name("card.md.j2")
DEFAULT_WORDS = Path(__file__).with_name("cards") / "adult.toml"
VERSIONS = ("python", "scikit-learn", "fairlearn", "numpy")
Row = tuple[str, ...]


def model_card(results: RunResults, words: Words) -> ModelCard:
    """The card of a model, as the Hub reads it: metadata above, text below.

    The template is rendered with every variable required, unlike ``ModelCard.from_template``,
    which leaves a gap, or "[More Information Needed]", where a name is missing. Afterwards the
    finished text is read again, and each number in it must be one of the run's.

    Parameters
    ----------
    results
        Of one run.
    words
        Of people.

    Returns
    -------
    ModelCard
        ``str(card)`` is the Markdown; ``card.data`` the metadata, with one ``EvalResult`` for
        each performance line that has a ``kind``.

    Raises
    ------
    InputError
        For a metric or data set that the run does not have, a disparity without its interval or
        null, a figure typed into the words, or a number in the text that no run measured.

    References
    ----------
    Mitchell et al.: Model Cards for Model Reporting, FAT* 2019.
    """
    check_prose(words)
    text = {name: _expanded(value, results, words) for name, value in _texts(words).items()}
    lists = {
        name: [_expanded(each, results, words) for each in getattr(words, name)]
        for name in ("intended", "out_of_scope", "limits")
    }
    people = [
        (question, _expanded(getattr(words.people, name), results, words).strip())
        for name, question in People.QUESTIONS
    ]
    methods, mitigation_reason = mitigation_rows(results, words)
    explained, explanations_reason = explanation_rows(results, words)
    metadata = card_metadata(results, words)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "number": formatted}
    content = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        metadata=metadata.to_yaml().strip(),
        title=words.title,
        unstated=[question for question, answer in people if not answer],
        warnings=warnings(results),
        people=people,
        data=[results.source(name) for name in words.data],
        performance=[_row(line, results) for line in words.performance],
        groups=[_row(line, results) for line in words.groups],
        disparities=[row for audit in words.disparities for row in audit_rows(audit, results)],
        mitigation=methods,
        mitigation_columns=("method", *map(_words_of, words.mitigation.measures), "n"),
        mitigation_reason=mitigation_reason,
        explanations=explained,
        explanations_reason=explanations_reason,
        facts=[fact for _, fact in words.facts],
        run=_provenance(results),
        **text,
        **lists,
    )
    card = ModelCard(content)
    if left := unverified_numbers(card, results, words):
        raise InputError(
            f"the card holds {', '.join(left)}, which {results.file} does not; look each number up"
        )
    return card


def unverified_numbers(card: ModelCard, results: RunResults, words: Words) -> list[str]:
    """The numbers in the card's text that are neither the run's nor a declared fact's."""
    numbers = [each for metric in results.metrics.values() for each in metric.numbers()]
    numbers += [formatted(each.rows) for each in results.data]
    literal = ["95 %", *results.metrics, *results.unmeasured, *results.unmeasured.values()]
    # A row is called by its metric's name, in words: "lime 500, spread".
    literal += [
        _words_of(name.partition(".")[2]) for name in (*results.metrics, *results.unmeasured)
    ]
    literal += [value for _, value in _provenance(results)]
    for each in results.data:
        literal += [each.name, each.source, each.sha256]
    for _, fact in words.facts:
        literal += [fact.text, fact.source]
    return untraceable(card.text, numbers, literal)


def card_metadata(results: RunResults, words: Words) -> ModelCardData:
    """The metadata block: what a machine reads, with full precision and no rounding."""
    source = results.source(words.data[0]) if words.data else None
    evaluated = []
    for line in words.performance:
        if not line.kind or source is None or (line.optional and results.reason(line.metric)):
            continue
        metric = results.lookup(line.metric)
        evaluated.append(
            EvalResult(
                task_type=words.task,
                dataset_type=source.name,
                dataset_name=source.name,
                dataset_revision=source.sha256,
                metric_type=line.kind,
                metric_name=line.label,
                metric_value=metric.value,
                metric_args={
                    "metric": metric.name,
                    "n": metric.n,
                    "ci95": list(metric.ci95) if metric.ci95 else None,
                },
            )
        )
    return ModelCardData(
        model_name=words.name,
        license=words.license,
        library_name="sklearn",
        pipeline_tag=words.task,
        tags=list(words.tags),
        datasets=list(words.data),
        metrics=sorted({line.kind for line in words.performance if line.kind}),
        eval_results=evaluated or None,
    )


def audit_rows(audit: Audit, results: RunResults) -> list[Row]:
    """Every gap of an audit, with its interval and what chance gives.

    Raises
    ------
    InputError
        When the audit has no gap, or a gap lacks its interval or its null: half a disparity is
        the half that alarms or the half that soothes.
    """
    ending = "_difference"
    everything = (*results.metrics, *results.unmeasured)
    names = [n for n in everything if n.startswith(f"{audit.prefix}.") and n.endswith(ending)]
    if not names:
        results.lookup(f"{audit.prefix}.*{ending}")
    rows: list[Row] = []
    for name in names:
        stem = name.removesuffix(ending)
        gap = results.lookup(name)
        null, p_value = results.lookup(f"{stem}_null_q95"), results.lookup(f"{stem}_p")
        if gap.ci95 is None:
            raise InputError(f"metric {name!r} has no interval; a gap is not shown without one")
        label = f"{_words_of(stem.removeprefix(f'{audit.prefix}.'))}, {audit.label}"
        rows.append((_cell(label), gap.shown, gap.interval, gap.counted, null.shown, p_value.shown))
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
                cells.append(_cell(f"not measured: {reason}"))
            else:
                metric = results.lookup(name)
                cells.append(f"{metric.shown} ({metric.interval})")
                counts.append(metric.counted)
        rows.append((_cell(_words_of(method)), *cells, " / ".join(dict.fromkeys(counts))))
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
    lines = [Line(name, _words_of(name.removeprefix(prefix)), optional=optional) for name in names]
    return [_row(line, results) for line in lines], ""


def warnings(results: RunResults) -> list[str]:
    """What makes the run itself unfit to rest a decision on."""
    found = []
    if results.mine:
        found.append("MEASURED WITH A LEARNER'S CODE: the run used solutions from a work folder.")
    if results.scale == "smoke":
        found.append("MEASURED AT SMOKE SCALE: it shows that the code runs, not how sure it is.")
    if results.commit == "unknown" or results.commit.endswith("-dirty"):
        found.append("MEASURED WITH CODE THAT NO COMMIT HOLDS: nobody can measure it again.")
    return found


def write_card(card: ModelCard, path: Path) -> None:
    """Write the card whole or not at all; what stood there before stays until it is.

    Raises
    ------
    InputError
        When the folder is missing or is no folder, or ``path`` is one.
    RunError
        When the disk is full or may not be written.
    """
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"--out {path}: name a file in a folder that exists")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(str(card))
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m labs.lab3_fairness.model_card",
        description="Write a model card from a run's results.json and a file of words.",
    )
    parser.add_argument("results", type=Path, metavar="RESULTS.json")
    parser.add_argument("--words", type=Path, default=DEFAULT_WORDS, metavar="WORDS.toml")
    parser.add_argument("--out", type=Path, required=True, metavar="CARD.md")
    given = parser.parse_args(arguments)
    try:
        words = read_words(given.words)
        card = model_card(read_results(given.results), words)
        write_card(card, given.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    unstated = [q for name, q in People.QUESTIONS if not getattr(words.people, name).strip()]
    print(f"wrote {given.out}" + (f"; NOT STATED: {'; '.join(unstated)}" if unstated else ""))
    return EXIT_OK


def _texts(words: Words) -> dict[str, str]:
    return {
        "summary": words.summary,
        "training": words.training,
        "evaluation": words.evaluation,
        "groups_words": words.groups_words,
        "mitigation_words": words.mitigation.words,
        "explanations_words": words.explanations.words,
        "recommendation": words.recommendation,
    }


def _expanded(text: str, results: RunResults, words: Words) -> str:
    """Placeholders replaced by what they name."""
    facts = dict(words.facts)

    def replaced(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "metric":
            return results.lookup(name).sentence
        if name not in facts:
            raise InputError(
                f"{{fact:{name}}} is not among the facts: {', '.join(facts) or 'none'}"
            )
        return facts[name].text

    return PLACEHOLDER.sub(replaced, text).strip()


def _row(line: Line, results: RunResults) -> Row:
    reason = results.reason(line.metric) if line.optional else None
    if reason:
        return _cell(line.label), _cell(f"not measured: {reason}"), "", ""
    metric: Measured = results.lookup(line.metric)
    return _cell(line.label), metric.shown, metric.interval, metric.counted


def _provenance(results: RunResults) -> list[tuple[str, str]]:
    used = [f"{name} {results.versions[name]}" for name in VERSIONS if name in results.versions]
    return [
        ("run", f"{results.lab}, scale {results.scale}, seed {results.seed}"),
        ("started at", results.started_at),
        ("commit", results.commit),
        ("packages", ", ".join(used)),
        ("results", f"{results.file}, SHA-256 {results.sha256}"),
    ]


def _words_of(name: str) -> str:
    return name.replace("_", " ").replace(".", ", ")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
