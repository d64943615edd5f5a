import numpy as np
import pytest
from fairlearn import metrics as fairlearn_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_score

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import confusion, fairness_metrics, group_calibration
from labs.lab3_fairness.tabular import TWO_RACES, high_risk, propublica_filter


@pytest.fixture(scope="module")
def compas():
    kept = propublica_filter(load("compas").table("scores"))
    kept = kept[kept["race"].isin(TWO_RACES)]
    truth, predicted = kept["two_year_recid"].to_numpy(), high_risk(kept).to_numpy()
    return truth, predicted, kept["race"].to_numpy(), kept["decile_score"].to_numpy()


def random_rows(seed, n=300, groups="abc"):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, n), rng.integers(0, 2, n), rng.choice(list(groups), n)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.integers(0, 10_000))
def test_differences_and_ratios_equal_fairlearns(seed):
    """Demographic parity, equal opportunity and equalized odds are fairlearn's to the last bits."""
    y_true, y_pred, groups = random_rows(seed)
    for name in ("demographic parity", "equal opportunity", "equalized odds"):
        got = fairness_metrics.GAPS[name](y_true, y_pred, groups)
        stem = name.replace(" ", "_")
        difference, ratio = (
            getattr(fairlearn_metrics, f"{stem}_{kind}")(y_true, y_pred, sensitive_features=groups)
            for kind in ("difference", "ratio")
        )
        assert got.difference == pytest.approx(difference, abs=1e-12)
        assert got.ratio == pytest.approx(ratio, abs=1e-12)
        assert got.undefined == ()


def test_predictive_parity_equals_fairlearns_frame_of_precision():
    y_true, y_pred, groups = random_rows(1)
    frame = fairlearn_metrics.MetricFrame(
        metrics=precision_score, y_true=y_true, y_pred=y_pred, sensitive_features=groups
    )
    got = fairness_metrics.predictive_parity(y_true, y_pred, groups)
    assert got.difference == pytest.approx(frame.difference(), abs=1e-12)
    assert got.ratio == pytest.approx(frame.ratio(), abs=1e-12)


def test_the_numbers_of_compas_are_the_known_ones(compas):
    rates = confusion.group_rates(*compas[:3])
    for name, values in {
        "fpr": (0.423382, 0.220141),
        "fnr": (0.284768, 0.496350),
        "ppv": (0.649535, 0.594828),
    }.items():
        assert rates[name].to_numpy() == pytest.approx(values, abs=1e-6)
    parity = fairness_metrics.demographic_parity(*compas[:3])
    odds = fairness_metrics.equalized_odds(*compas[:3])
    assert parity.difference == pytest.approx(0.2451072146652139, abs=1e-12)
    assert odds.difference == pytest.approx(0.2115821530429738, abs=1e-12)


def test_a_group_without_positives_is_named_and_not_counted_as_zero():
    """fairlearn gives that group a TPR of 0, and reports the largest gap there can be."""
    y_true = np.array([0, 0, 1, 1, 0, 1, 1, 0])
    y_pred = np.array([0, 1, 1, 1, 0, 1, 0, 1])
    groups = np.array(list("aabbbccc"))
    got = fairness_metrics.equal_opportunity(y_true, y_pred, groups)
    assert got.undefined == ("a",)
    assert got.difference == pytest.approx(0.5)
    silent = fairlearn_metrics.equal_opportunity_difference(
        y_true, y_pred, sensitive_features=groups
    )
    assert silent == 1


def test_a_gap_between_fewer_than_two_groups_is_not_a_number():
    y_true, y_pred, groups = [0, 0, 1, 1], [0, 1, 1, 1], list("aabb")
    for name in ("equal opportunity", "equalized odds"):
        got = fairness_metrics.GAPS[name](y_true, y_pred, groups)
        assert np.isnan(got.difference)
        assert np.isnan(got.ratio)
        assert "a" in got.undefined
    verdicts = fairness_metrics.evaluate_definitions(y_true, y_pred, groups, n_boot=100)
    by_name = {verdict.definition: verdict for verdict in verdicts}
    assert np.isnan(by_name["equalized odds"].p_value)
    assert by_name["demographic parity"].p_value > 0


def test_every_definition_has_interval_and_null_on_compas(compas):
    verdicts = fairness_metrics.evaluate_definitions(
        *compas[:3], n_boot=200, n_permutations=199, seed=3
    )
    assert [verdict.definition for verdict in verdicts] == list(fairness_metrics.GAPS)
    for verdict in verdicts:
        low, high = verdict.ci95
        assert low < verdict.gap.difference < high
        assert verdict.null_q95 < verdict.gap.difference
        assert verdict.p_value < 0.05


def test_fair_decisions_have_intervals_that_reach_equality():
    """The percentile bootstrap of a max - min hardly ever does."""
    y_true, groups = np.tile([0, 1], 200), np.repeat(["a", "b"], 200)
    y_pred = np.tile([0, 0, 1, 1, 1], 80)
    verdicts = fairness_metrics.evaluate_definitions(
        y_true, y_pred, groups, n_boot=200, n_permutations=19
    )
    for verdict in verdicts:
        assert verdict.ci95[0] == 0 < verdict.ci95[1], verdict
        assert 0 <= verdict.bootstrap_ci95[0] < verdict.bootstrap_ci95[1]
    ratio = fairness_metrics.four_fifths_rule(y_pred, groups, n_boot=200, n_permutations=19)
    assert ratio.ci95[0] < ratio.ratio == ratio.ci95[1] == 1


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(8, 60))
def test_every_gap_lies_in_its_interval(seed, n):
    y_true, y_pred, groups = random_rows(seed, n=n, groups="abc")
    for verdict in fairness_metrics.evaluate_definitions(
        y_true, y_pred, groups, n_boot=1, n_permutations=1
    ):
        low, high = verdict.ci95
        if np.isnan(verdict.gap.difference):
            assert np.isnan([low, high]).all()
        else:
            assert low <= verdict.gap.difference <= high, verdict


def test_equalized_odds_takes_the_larger_gap_in_the_null_as_in_the_data():
    """Its null lies above that of the TPR alone, so fair data is not rejected twice as often."""
    rejected = 0
    for seed in range(60):
        y_true, y_pred, groups = random_rows(seed, n=200, groups="ab")
        verdicts = fairness_metrics.evaluate_definitions(
            y_true, y_pred, groups, n_boot=1, n_permutations=99, seed=seed
        )
        rejected += {v.definition: v.p_value for v in verdicts}["equalized odds"] <= 0.05
    assert rejected <= 9, f"{rejected} of 60 fair data sets rejected at 5 %"


def test_every_definition_of_the_table_says_what_it_is_for():
    names = [definition.name for definition in fairness_metrics.DEFINITIONS]
    assert len(set(names)) == len(names)
    assert set(fairness_metrics.GAPS) < set(names)
    assert {d.family for d in fairness_metrics.DEFINITIONS} == {
        "independence",
        "separation",
        "sufficiency",
    }
    assert all(d.formula and d.asks and d.meant_for for d in fairness_metrics.DEFINITIONS)


def test_four_fifths_is_the_ratio_of_the_lowest_rate_to_the_highest():
    """48 of 80 and 12 of 40 (the guidelines' own arithmetic): .3 / .6, below four fifths."""
    chosen = np.repeat([1, 0, 1, 0], [48, 32, 12, 28])
    groups = np.repeat(["a", "b"], [80, 40])
    got = fairness_metrics.four_fifths_rule(chosen, groups, n_boot=200, n_permutations=199)
    assert got.ratio == pytest.approx(0.5)
    assert not got.passes
    assert got.p_value < 0.05
    assert got.ci95[0] < 0.5 < got.ci95[1]
    assert got.ratio == pytest.approx(
        fairlearn_metrics.demographic_parity_ratio(chosen, chosen, sensitive_features=groups)
    )


def test_exactly_four_fifths_passes_and_few_people_prove_nothing():
    """4 of 10 against 5 of 10 is .8; 3 of 10 is .6, fails, and is well within chance."""
    groups = np.repeat(["a", "b"], 10)
    exactly = fairness_metrics.four_fifths_rule(np.repeat([1, 0, 1, 0], [4, 6, 5, 5]), groups)
    below = fairness_metrics.four_fifths_rule(np.repeat([1, 0, 1, 0], [3, 7, 5, 5]), groups)
    assert exactly.passes
    assert not below.passes
    assert below.p_value > 0.3


def test_a_ratio_among_nobody_is_refused():
    with pytest.raises(InputError, match="selected rows = 0"):
        fairness_metrics.four_fifths_rule([0, 0, 0, 0], list("aabb"))


def test_the_calibration_table_counts_the_rows_of_each_score_and_group(compas):
    truth, _, groups, deciles = compas
    table = group_calibration.calibration_within_groups(truth, deciles, groups, n_boot=50).table
    assert table["n"].sum() == 5278
    row = table[(table["score"] == 7) & (table["group"] == "Caucasian")].iloc[0]
    here = (deciles == 7) & (groups == "Caucasian")
    assert (row["n"], row["positives"]) == (here.sum(), truth[here].sum())
    assert row["rate"] == pytest.approx(truth[here].mean())


def test_the_calibration_gap_is_that_of_permuted_rows():
    """Drawing counts is shuffling the groups among the rows of each score."""
    rng = np.random.default_rng(0)
    scores, groups = rng.integers(0, 4, 240), rng.choice(["a", "b", "c"], 240)
    truth = (rng.random(240) < 0.2 + 0.2 * scores).astype(int)
    got = group_calibration.calibration_within_groups(truth, scores, groups, n_permutations=4000)
    gaps = []
    for _ in range(400):
        shuffled = groups.copy()
        for score in range(4):
            rows = np.flatnonzero(scores == score)
            shuffled[rows] = groups[rng.permutation(rows)]
        gaps.append(
            sum(
                np.mean(scores == score)
                * np.ptp([truth[(scores == score) & (shuffled == group)].mean() for group in "abc"])
                for score in range(4)
            )
        )
    assert got.null_mean == pytest.approx(np.mean(gaps), abs=4 * np.std(gaps) / 20)


def test_a_score_that_means_less_in_one_group_is_found():
    rng = np.random.default_rng(1)
    scores, groups = rng.integers(1, 6, 2000), rng.choice(["a", "b"], 2000)
    risk = scores / 6 - np.where(groups == "b", 0.12, 0)
    got = group_calibration.calibration_within_groups(
        (rng.random(2000) < risk).astype(int), scores, groups
    )
    assert got.p_value < 0.01
    assert got.gap == pytest.approx(0.12, abs=0.05)
    assert got.ci95[0] < got.gap < got.ci95[1]


def test_a_score_that_only_one_group_has_takes_no_part_in_the_gap():
    truth, scores = [0, 1, 1, 1, 0, 1], [1, 1, 1, 2, 2, 2]
    got = group_calibration.calibration_within_groups(truth, scores, list("aabaaa"))
    assert got.gap == pytest.approx(0.5)
    assert np.isnan(got.table.set_index(["score", "group"]).loc[(2, "b"), "rate"])


@pytest.mark.parametrize(
    ("truth", "scores", "groups", "says"),
    [
        ([0, 1], [1.0, np.nan], list("ab"), "NaN in 1"),
        ([0, 1], [1, 2], list("ab"), "no score of 2"),
        ([0, 3], [1, 1], list("ab"), "y_true holds"),
        ([0, 1, 1], [1, 1], list("ab"), "must both be"),
        ([0, 1], [1, 1], list("aa"), "only the group"),
    ],
)
def test_bad_input_to_calibration_is_refused(truth, scores, groups, says):
    with pytest.raises(InputError, match=says):
        group_calibration.calibration_within_groups(truth, scores, groups)
