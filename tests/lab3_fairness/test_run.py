import json
import subprocess
import sys

import pytest

from common.data import load
from labs.lab3_fairness import traps
from labs.lab3_fairness.confusion import demographic_parity_difference, equalized_odds_difference
from labs.lab3_fairness.tabular import (
    features,
    fit_logistic_regression,
    high_risk,
    propublica_filter,
)


@pytest.mark.parametrize("trap", traps.TRAPS, ids=lambda trap: trap.__name__)
def test_every_trap_shows_two_different_values(trap):
    shown = trap()
    assert shown.wrong[1] != shown.right[1]


def test_compas_gives_the_published_numbers():
    kept = propublica_filter(load("compas").table("scores"))
    assert len(kept) == 6172
    two = kept[kept["race"].isin(["African-American", "Caucasian"])]
    columns = (two["two_year_recid"], high_risk(two), two["race"])
    assert demographic_parity_difference(*columns) == pytest.approx(0.2451072146652139, abs=1e-12)
    assert equalized_odds_difference(*columns) == pytest.approx(0.2115821530429738, abs=1e-12)


def test_logistic_regression_on_adult_gives_the_known_numbers():
    adult = load("adult")
    test = adult.table("test")
    predicted = fit_logistic_regression(adult.table("train")).predict(features(test))
    columns = (test["income"], predicted, test["sex"])
    assert (predicted == test["income"]).mean() == pytest.approx(0.8515, abs=5e-4)
    assert demographic_parity_difference(*columns) == pytest.approx(0.1675, abs=1e-3)
    assert equalized_odds_difference(*columns) == pytest.approx(0.0722, abs=1e-3)


@pytest.mark.slow
def test_the_smoke_run_audits_and_leaves_mitigation_open(tmp_path):
    command = [sys.executable, "-m", "labs.lab3_fairness", "--scale", "smoke", "--out", tmp_path]
    subprocess.run(command, check=True, timeout=120)
    results = json.loads((tmp_path / "lab3_fairness/latest/results.json").read_text())
    passed = {entry["id"]: entry["passed"] for entry in results["deliverables"]}
    assert passed == {"L3.known": True, "L3.audit": True, "L3.mitigation": None}
