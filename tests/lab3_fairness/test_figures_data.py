import numpy as np
import pandas as pd
import pytest

from labs.lab3_fairness import figures_data
from labs.lab3_fairness.data_audit import data_audit
from labs.lab3_fairness.gate import judge
from labs.lab3_fairness.gate_policy import parse_policy
from labs.lab3_fairness.proxies import proxy_report
from labs.lab3_fairness.scoring import logistic_regression


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    group = np.repeat(["a", "b"], [200, 100])
    job = np.where(rng.random(300) < np.where(group == "a", 0.1, 0.3), "?", "cook")
    pay = rng.normal(size=300) + (group == "a")
    hired = (rng.random(300) < 0.4).astype(int)
    return pd.DataFrame({"group": group, "job": job, "pay": pay, "hired": hired})


def words(figure):
    """Every text on a figure."""
    return [text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text"))]


def test_the_audit_is_drawn_with_its_groups_and_reference(table):
    """Every group is named; the reference is told apart from the share."""
    audit = data_audit(
        table, label="hired", sensitive=["group"], reference={"group": {"a": 0.5, "b": 0.5}}
    )
    said = words(figures_data.draw_representation(audit))
    assert {"group: a", "group: b"} <= set(said)
    assert "n = 200" in said
    assert "share of the rows (diamond: reference)" in said
    said = words(figures_data.draw_missingness(audit))
    assert "job by group" in said
    assert any("a to b" in text for text in said)


def test_a_table_without_missing_answers_says_so(table):
    """An empty figure would look like a fault of the figure."""
    audit = data_audit(table.drop(columns="job"), label="hired", sensitive=["group"])
    assert "no answer is missing" in words(figures_data.draw_missingness(audit))


def test_proxies_are_drawn_with_what_dropping_them_costs(table):
    """The AUC of the group and that of the label stand side by side."""
    report = proxy_report(
        table,
        sensitive="group",
        group="b",
        label="hired",
        make=logistic_regression,
        n_drop=1,
        folds=2,
    )
    said = words(figures_data.draw_proxies(report))
    assert {"job", "pay", "none", "of the group", "of the label"} <= set(said)


def test_a_gate_is_drawn_with_its_verdicts(table):
    """One row a rule, also where there is no interval to draw."""
    rule = {"metric": "selection_rate", "kind": "difference", "bound": 0.5}
    policy = parse_policy(
        {
            "columns": {"label": "y", "prediction": "p", "group": "g"},
            "rules": [{**rule, "name": "wide"}, {**rule, "name": "many", "min_rows": 5000}],
        }
    )
    report = judge(policy, table["hired"], table["hired"], table["group"])
    said = words(figures_data.draw_gate(report))
    assert said.count("pass") == 1
    assert said.count("not enough data") == 1
    assert "wide\nselection_rate difference <= 0.5" in said
