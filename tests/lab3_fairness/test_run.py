import json
import subprocess
import sys

import pytest

from common.data import load
from labs.lab3_fairness import traps
from labs.lab3_fairness.claims import FULL_DATA
from labs.lab3_fairness.confusion import demographic_parity_difference, equalized_odds_difference
from labs.lab3_fairness.tabular import (
    features,
    fit_logistic_regression,
    high_risk,
    propublica_filter,
)

TRAPS = {  # between which values the wrong number lies, and between which the right one
    "the_gap_is_never_zero": ((0.17, 0.20), (-0.02, 0.02)),
    "the_four_fifths_rule_fails_on_nothing": ((0.97, 1.0), (0.0, 0.07)),
    "fair_margins_hide_an_intersection": ((0.0, 0.03), (0.15, 0.25)),
    "dropping_sex_leaves_the_gap": ((-0.02, 0.03), (0.15, 0.19)),
    "the_worst_slice_of_noise": ((0.10, 0.20), (-0.08, 0.08)),
    "one_gap_closed_another_opened": ((0.0, 0.015), (0.28, 0.37)),
    "the_randomised_predictor_cut_at_one_half": ((0.04, 0.08), (0.02, 0.04)),
    "the_rule_was_chosen_on_the_test_half": ((0.863, 0.873), (0.850, 0.860)),
    "the_masker_keeps_a_hundred_rows": ((0.43, 0.53), (0.30, 0.39)),
    "an_explained_model_can_know_that_it_is_explained": ((0.0, 0.10), (0.95, 1.0)),
    "attention_looks_away_from_what_decides": ((0.0, 0.005), (0.95, 1.0)),
    "coverage_is_a_promise_about_everybody_together": ((0.89, 0.91), (0.865, 0.885)),
}


@pytest.mark.parametrize("trap", traps.TRAPS, ids=lambda trap: trap.__name__)
def test_every_trap_shows_the_wrong_number_and_the_right_one(trap):
    shown = trap()
    for (_, value), (low, high) in zip((shown.wrong, shown.right), TRAPS[trap.__name__]):
        assert low <= value <= high


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


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The results and the card of a smoke run."""
    out = tmp_path_factory.mktemp("lab3")
    command = [sys.executable, "-m", "labs.lab3_fairness", "--scale", "smoke", "--out", out]
    subprocess.run(command, check=True, timeout=280)
    latest = out / "lab3_fairness/latest"
    return json.loads((latest / "results.json").read_text()), (latest / "model_card.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_smoke_run_shows_what_needs_no_whole_data_set(smoke):
    results, _ = smoke
    passed = {entry["id"]: entry["passed"] for entry in results["deliverables"]}
    too_few = ("coverage_values", "coverage_differences", "coverage_gaps", "null", "slices_null")
    open_claims = {*(f"L3.{name}" for name in too_few), *FULL_DATA}
    assert {name for name, outcome in passed.items() if outcome is None} == open_claims
    assert all(outcome for outcome in passed.values() if outcome is not None), passed
    reasons = {entry["id"]: entry["reason"] for entry in results["deliverables"]}
    assert all(reasons[name] for name in open_claims)


@pytest.mark.slow
def test_every_method_reports_its_accuracy_and_both_gaps_with_intervals(smoke):
    """A mitigation that reports one gap hides the other."""
    metrics = smoke[0]["metrics"]
    methods = {name.split(".")[1] for name in metrics if name.startswith("adult.")}
    wanted = {"base", "reweighing_logistic", "fair_loss_dp", "threshold_optimizer_eo", "eo_bands"}
    assert wanted <= methods
    for method in methods:
        for measure in ("accuracy", "dp_diff", "eo_diff"):
            entry = metrics[f"adult.{method}.{measure}"]
            assert entry["n"] == 3000
            low, high = entry["ci95"]
            assert low <= entry["value"] <= high, (method, measure, entry)


@pytest.mark.slow
def test_the_card_holds_the_runs_numbers_and_says_what_nobody_stated(smoke):
    results, text = smoke
    accuracy = results["metrics"]["adult.base.accuracy"]["value"]
    assert f"{accuracy:.4g}" in text
    assert "NOT STATED" in text
    assert "SMOKE SCALE" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "100"], "rows = 100 must be >= 4000"),
        (["--threshold", "1.5"], "threshold = 1.5 must be between 0 and 1"),
        (["--seeds", "1"], "seeds = 1 must be 0 or >= 2"),
    ],
)
def test_an_option_out_of_range_is_one_clear_error(arguments, message):
    command = [sys.executable, "-m", "labs.lab3_fairness", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
