"""Write a model card from what a run measured and what people said, and nothing else.

    python -m labs.lab3_fairness.model_card RESULTS.json --words words.toml --out CARD.md

Exit status 2 when a number is missing, a figure was typed, or a file cannot be used; 0 when the
card was written, whole.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from common.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, InputError, RunError
from labs.lab3_fairness.card_numbers import (
    RunResults,
    formatted,
    read_results,
    untraceable,
)
from labs.lab3_fairness.card_tables import (
    BESIDE,
    GAP,
    audit_rows,
    cell,
    explanation_rows,
    mitigation_rows,
    states,
    table_cells,
    table_row,
    words_of,
)
from labs.lab3_fairness.card_words import PLACEHOLDER, People, Words, check_prose, read_words
from labs.lab3_fairness.untrusted import one_line
from labs.lab3_fairness.whole_file import write_whole

TEMPLATE = Path(__file__).with_name("card.md.j2")
DEFAULT_WORDS = Path(__file__).with_name("cards") / "adult.toml"
VERSIONS = ("python", "scikit-learn", "fairlearn", "numpy")


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
    environment.filters |= {"cell": cell, "number": formatted}
    content = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        metadata=metadata.to_yaml().strip(),
        title=words.title,
        unstated=[question for question, answer in people if not answer],
        warnings=warnings(results),
        people=people,
        data=[results.source(name) for name in words.data],
        performance=[table_row(line, results) for line in words.performance],
        groups=[table_row(line, results) for line in words.groups],
        disparities=[row for audit in words.disparities for row in audit_rows(audit, results)],
        mitigation=methods,
        mitigation_columns=("method", *map(words_of, words.mitigation.measures), "n"),
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
    literal = ["95 %", *results.metrics, *results.unmeasured]
    # A reason may hold a limit ("fewer than 30 rows"): it passes where it is given as a reason.
    literal += [f"not measured: {cell(reason)}" for reason in results.unmeasured.values()]
    # A row is called by its metric's name, in words: "lime 500, spread".
    literal += [
        words_of(name.partition(".")[2]) for name in (*results.metrics, *results.unmeasured)
    ]
    literal += [cell(value) for _, value in _provenance(results)]
    for each in results.data:
        literal += [cell(each.name), cell(each.source), each.sha256]
    for _, fact in words.facts:
        literal += [fact.text, cell(f"{fact.text}: {fact.source}")]
    return untraceable(card.text, numbers, literal)


def missing_from(card_text: str, results: RunResults, words: Words) -> list[str]:
    """The metrics that the words ask for and the written text does not show.

    The text is read as a reader reads it: a row of a table with the metric's label, and in
    another cell of that row a number that agrees with the run's to four digits. Neither the
    template nor what formats a number is used: a row dropped, mixed up or rounded away is found.

    Parameters
    ----------
    card_text
        Read back from the file.
    results, words
        What the card is of.

    Returns
    -------
    list of str
        Names of performance, group and disparity metrics (gap, null and p-value), in the order of
        the words. A line that is optional is not missing when the run has no value for it; an
        audit without any disparity is, as ``<prefix>.*_difference``.
    """
    wanted = [
        (line.metric, line.label)
        for line in (*words.performance, *words.groups)
        if line.metric in results.metrics or not line.optional
    ]
    for audit in words.disparities:
        prefix = f"{audit.prefix}."
        names = [n for n in (*results.metrics, *results.unmeasured) if n.startswith(prefix)]
        stems = [name.removesuffix(GAP) for name in names if name.endswith(GAP)]
        wanted += [
            (stem + ending, f"{words_of(stem.removeprefix(prefix))}, {audit.label}")
            for stem in stems
            for ending in (GAP, *BESIDE)
        ]
        wanted += [] if stems else [(f"{prefix}*{GAP}", audit.label)]
    rows = table_cells(card_text)
    return [
        name
        for name, label in wanted
        if name not in results.metrics
        or not any(
            row[0] == " ".join(label.split())
            and any(states(each, results.metrics[name]) for each in row[1:])
            for row in rows
        )
    ]


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


def write_card(card: ModelCard, path: Path, inputs: Sequence[Path] = ()) -> None:
    """Write the card whole or not at all; what stood there before stays until it is.

    Raises
    ------
    InputError
        When the folder is missing or is no folder, or ``path`` is one; or is one of the
        ``inputs``, under whatever name.
    RunError
        When the disk is full or may not be written.
    """
    write_whole(path, str(card), "--out", inputs)


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
        write_card(card, given.out, (given.results, given.words, TEMPLATE))
    except InputError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except RunError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
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


def _provenance(results: RunResults) -> list[tuple[str, str]]:
    used = [f"{name} {results.versions[name]}" for name in VERSIONS if name in results.versions]
    return [
        ("run", f"{results.lab}, scale {results.scale}, seed {results.seed}"),
        ("started at", results.started_at),
        ("commit", results.commit),
        ("packages", ", ".join(used)),
        ("results", f"{results.file}, SHA-256 {results.sha256}"),
    ]


if __name__ == "__main__":
    sys.exit(main())
