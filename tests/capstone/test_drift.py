"""Drift: the index against hand-made numbers, its null against simulation, Holm over the heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone import drift
from common.errors import InputError


@pytest.mark.exercise("7.12")
def test_the_limit_is_what_simulation_gives_with_few_new_rows() -> None:
    """Two samples of one distribution exceed it with the chance that was asked for."""
    rng = np.random.default_rng(0)
    shares = np.full(10, 0.1)
    reference, new = rng.multinomial(5000, shares, 20_000), rng.multinomial(400, shares, 20_000)
    p, q = (reference + 0.5) / 5005, (new + 0.5) / 405
    psi = ((q - p) * np.log(q / p)).sum(axis=1)
    limit = drift.psi_limit(5000, 400, 10, 0.05)
    share = float((psi > limit).mean())
    assert 0.04 < share < 0.06, f"{share:.3f} of 20,000 nulls are above {limit:.4f}, not 0.05"


@pytest.mark.exercise("7.12")
def test_a_small_reference_counts_as_much_as_few_new_rows() -> None:
    """Yesterday's reference of 400 rows is as noisy as today's 400 rows."""
    small, swapped = drift.psi_limit(400, 5000, 10, 0.05), drift.psi_limit(5000, 400, 10, 0.05)
    both = drift.psi_limit(400, 400, 10, 0.05)
    assert small == pytest.approx(swapped), f"sizes swapped: {small} and {swapped}"
    assert both / small == pytest.approx((2 / 400) / (1 / 400 + 1 / 5000)), f"{both}, {small}"


@pytest.mark.exercise("7.12")
def test_the_limit_falls_with_the_rows_and_rises_with_the_bins() -> None:
    """No cut-off fits all sizes; chi-square of 1 degree of freedom at 5 % is 3.841."""
    two_bins = drift.psi_limit(1000, 1000, 2, 0.05)
    assert two_bins == pytest.approx(3.841459 * 2 / 1000), f"{two_bins} for two bins"
    many = drift.psi_limit(100_000, 100_000, 2, 0.05)
    assert many == pytest.approx(two_bins / 100), f"{many} with 100 times the rows of {two_bins}"
    ten, one_percent = (drift.psi_limit(1000, 1000, 10, alpha) for alpha in (0.05, 0.01))
    assert two_bins < ten < one_percent, f"2 bins {two_bins}, 10 bins {ten}, at 1 % {one_percent}"


def test_the_index_is_that_of_the_formula() -> None:
    """(0.2 - 0.5) ln(0.2 / 0.5) + (0.8 - 0.5) ln(0.8 / 0.5) with many rows."""
    expected = -0.3 * np.log(0.4) + 0.3 * np.log(1.6)
    assert drift.psi([5e9, 5e9], [2e9, 8e9]) == pytest.approx(expected)
    assert drift.psi([10, 10], [10, 10]) == 0
    assert np.isfinite(drift.psi([10, 10], [20, 0])), "an empty bin is an answer, not infinity"


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=12))
def test_the_index_is_never_negative_and_does_not_care_about_order(pairs) -> None:
    """Each term has one sign; bins are only names."""
    left, right = np.array(pairs).T
    left[0] += 1
    right[0] += 1
    found = drift.psi(left, right)
    assert found >= 0
    assert drift.psi(left[::-1], right[::-1]) == pytest.approx(found)


def test_a_reference_has_bins_of_equal_mass_and_keeps_every_value() -> None:
    """Values beyond what the reference saw are in the end bins, not lost."""
    values = np.random.default_rng(0).normal(size=1000)
    reference = drift.reference_of(values)
    assert len(reference.counts) == 10
    assert reference.rows == 1000
    assert max(reference.counts) - min(reference.counts) <= 2
    assert reference.count([-99.0, 99.0]).tolist() == [1, *[0] * 8, 1]


def test_equal_values_leave_fewer_bins_and_a_constant_is_refused() -> None:
    """A head that answers the same to everybody cannot drift, and is a fault of another kind."""
    values = np.repeat([0.0, 0.5, 1.0], [500, 300, 200])
    reference = drift.reference_of(values)
    assert reference.counts == (500, 300, 200)
    with pytest.raises(InputError, match="constant"):
        drift.reference_of(np.ones(200))
    with pytest.raises(InputError, match="must be >= 100"):
        drift.reference_of(np.arange(99.0))
    with pytest.raises(InputError, match="not finite"):
        reference.count([0.1, np.nan])


def test_references_survive_their_file(tmp_path: Path) -> None:
    """What is written beside a bundle is what the monitor compares with."""
    references = {"like": drift.reference_of(np.linspace(0, 1, 500))}
    path = drift.save_references(references, tmp_path / "reference.json")
    assert drift.load_references(path) == references
    path.write_text('{"like": [1]}', encoding="utf-8")
    with pytest.raises(InputError, match="no references of drift"):
        drift.load_references(path)


def _heads(rng: np.random.Generator, rows: int, shift: float) -> dict[str, np.ndarray]:
    heads = {f"head{i}": rng.normal(size=rows) for i in range(4)}
    heads["head0"] = heads["head0"] + shift
    return heads


def test_the_family_keeps_its_error_rate() -> None:
    """Four unchanged heads, looked at 200 times: an alarm in twenty at 0.05, not in five."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        references = {n: drift.reference_of(v) for n, v in _heads(rng, 2000, 0).items()}
        found = drift.drifts(references, _heads(rng, 300, 0), alpha=0.05, least=0)
        alarms += any(each.drifted for each in found)
    assert alarms < 200 * 0.1, f"{alarms} of 200 at a level of 0.05"


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0, 0.6))
def test_above_the_limit_means_rejected_by_holm(seed: int, shift: float) -> None:
    """The exported limit and the adjusted p-value say the same of every head."""
    rng = np.random.default_rng(seed)
    references = {n: drift.reference_of(v) for n, v in _heads(rng, 1000, 0).items()}
    for each in drift.drifts(references, _heads(rng, 400, shift), alpha=0.05, least=0):
        assert each.drifted == (each.p < 0.05), each


def test_a_shift_is_found_and_one_that_does_not_matter_is_not() -> None:
    """With 200,000 rows a hundredth of a deviation is certain, and still nothing to wake up for."""
    rng = np.random.default_rng(1)
    references = {n: drift.reference_of(v) for n, v in _heads(rng, 200_000, 0).items()}
    found = {d.name: d for d in drift.drifts(references, _heads(rng, 2000, 0.5))}
    assert [name for name, each in found.items() if each.drifted] == ["head0"]
    tiny = {d.name: d for d in drift.drifts(references, _heads(rng, 200_000, 0.03))}
    assert tiny["head0"].p < 0.01
    assert not tiny["head0"].drifted, tiny["head0"]


def test_heads_without_rows_or_reference_are_left_out() -> None:
    """A fallback day has no scores, and that is another alert."""
    reference = drift.reference_of(np.linspace(0, 1, 500))
    assert drift.drifts({"like": reference}, {"like": [], "love": [0.1]}) == []


def test_the_study_shows_that_no_cutoff_fits_all_sizes() -> None:
    """0.1 cries wolf at 100 rows and sleeps at 10,000; the null does neither."""
    found = drift.study_null(sizes=(100, 10_000), repeats=400)
    assert found.false_by_cutoff[0] > 0.2
    assert found.power_by_cutoff[1] < 0.05
    assert (found.false_by_null < 0.04).all(), found.false_by_null
    assert found.power_by_null[1] > 0.95
    assert found.p99 == pytest.approx(found.limit, rel=0.25)


def test_two_samples_are_compared_without_bins() -> None:
    """The Kolmogorov-Smirnov distance and its p-value are SciPy's."""
    rng = np.random.default_rng(0)
    same, p_same = drift.ks(rng.normal(size=500), rng.normal(size=500))
    moved, p_moved = drift.ks(rng.normal(size=500), rng.normal(1, size=500))
    assert (same < 0.1, p_same > 0.05, moved > 0.3, p_moved < 1e-6) == (True,) * 4
