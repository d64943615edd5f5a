import numpy as np
import pytest

from common.errors import InputError
from labs.lab3_fairness import slice_inputs, slice_study
from labs.lab3_fairness.slices import search_slices


@pytest.fixture(scope="module")
def nothing():
    """200 data sets in which no slice is worse, searched and split anew each time (synthetic)."""
    literals, loss = slice_study.planted_data(2000, lift=0.0)
    return slice_study.null_study(literals, loss, n_datasets=200, min_rows=40)


def test_nothing_is_confirmed_about_nothing(nothing):
    """At most 5 % of null data sets report a confirmed slice: every report would be false."""
    rate = nothing.any_confirmed
    assert rate.n == 200
    assert rate.value <= nothing.alpha, f"{rate} is above {nothing.alpha}"


def test_the_false_discovery_rate_is_at_or_under_its_level(nothing):
    """On null data every rejection is false, so the share of data sets with one is the FDR."""
    rate = nothing.any_benjamini_hochberg
    assert rate.ci95[0] <= nothing.fdr, f"{rate} lies above {nothing.fdr}"
    assert nothing.any_bonferroni.ci95[0] <= nothing.alpha


def test_without_correction_every_null_data_set_reports_slices(nothing):
    """Hundreds of tests at 5 %: a few percent of them come out, on every single data set."""
    assert nothing.any_uncorrected.value == 1.0
    share = nothing.uncorrected.mean() / nothing.tested
    assert 0.02 < share <= 0.05, f"{share} of the tests; exact tests of counts stay below .05"
    assert nothing.worst_effect.mean() > 0.1


def test_a_skewed_real_loss_keeps_the_level_too():
    """Welch's test on log losses, which have a long tail: still nothing is confirmed."""
    literals, _ = slice_study.planted_data(1500, lift=0.0)
    score = np.random.default_rng(0).beta(1, 5, 1500)
    truth = (np.random.default_rng(1).random(1500) < score).astype(int)
    loss = slice_inputs.row_loss("log_loss", truth, score)
    study = slice_study.null_study(literals, loss, n_datasets=100, min_rows=40)
    assert study.any_confirmed.ci95[0] <= study.alpha
    assert study.any_benjamini_hochberg.ci95[0] <= study.fdr


def test_planted_slices_are_found_and_reports_are_right():
    """Three slices at 15 + 20 %, 8,000 rows: nearly all named exactly, nearly all reports true."""
    study = slice_study.planted_study(n_rows=8000, repetitions=15)
    assert study.recall.value > 0.95, study
    assert study.precision.value > 0.95, study
    assert study.exact > 0.5, study


def test_small_effects_on_few_rows_are_missed_rather_than_invented():
    """Confirmation costs power, not truth: recall falls, precision stays."""
    study = slice_study.planted_study(n_rows=3000, lift=0.08, repetitions=20)
    assert study.recall.value < 0.5, study
    assert not study.precision.value < 0.9, study


def test_the_expected_effect_is_what_a_large_sample_shows():
    """Given c0 = 1, its planted partner holds with a share of .3; a contradiction leaves none."""
    literals, loss = slice_study.planted_data(200_000, seed=1)
    table = search_slices(literals, loss, max_literals=2, min_rows=5000)
    for number in range(0, len(table), 9):
        key = tuple((int(c), int(v)) for c, v in table.keys[number] if c >= 0)
        measured = table.mean[number] - loss.values.mean()
        assert slice_study.expected_effect(key) == pytest.approx(measured, abs=0.025), key


def test_a_study_is_the_same_for_the_same_seed():
    """A reported rate must be one that can be computed again."""
    first, again = (slice_study.planted_study(n_rows=2000, repetitions=3, seed=5) for _ in "ab")
    assert first == again


def test_bad_sizes_are_named():
    """No data set, a risk above 1, a support that leaves no slice."""
    literals, loss = slice_study.planted_data(200)
    with pytest.raises(InputError, match="n_datasets"):
        slice_study.null_study(literals, loss, n_datasets=0)
    with pytest.raises(InputError, match="min_rows"):
        slice_study.null_study(literals, loss, n_datasets=1, min_rows=150)
    with pytest.raises(InputError, match="lift"):
        slice_study.planted_data(100, lift=0.4)
