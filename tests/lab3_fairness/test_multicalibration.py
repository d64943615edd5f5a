import numpy as np
import pandas as pd
import pytest

from common.data import load
from common.errors import InputError
from labs.lab3_fairness.calibration_audit import (
    Sample,
    audit_groups,
    census_groups,
    overlapping_groups,
)
from labs.lab3_fairness.multicalibration import multicalibrate

COLUMNS = ("sex", "race", "age", "schooling")


@pytest.fixture(scope="module")
def census():
    table = census_groups(load("adult").table("test"))
    return table, overlapping_groups(table, COLUMNS, depth=3, min_rows=100)


def crossed(n, seed, effect):
    """Two binary attributes; the score is right for each, and wrong by ``effect`` where crossed."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"x": rng.choice(["0", "1"], n), "z": rng.choice(["0", "1"], n)})
    scores = rng.uniform(0.3, 0.7, n)
    sign = np.where(table["x"] == table["z"], 1, -1)
    y = (rng.random(n) < scores + effect * sign).astype(np.int64)
    family = overlapping_groups(table, ["x", "z"], depth=2, min_rows=10)
    return Sample(y, scores, family.members(table)), family


def test_groups_are_every_conjunction_that_enough_rows_meet(census):
    table, family = census
    members = family.members(table)
    assert family.names[0] == "everybody"
    assert members[:, 0].all()
    assert members.sum(axis=0).min() >= 100
    assert len(set(family.names)) == len(family.names) > 100
    place = family.names.index("sex=Female & race=Black")
    expected = (table["sex"] == "Female") & (table["race"] == "Black")
    np.testing.assert_array_equal(members[:, place], expected)


def test_the_census_cuts_have_no_row_left_over(census):
    table, _ = census
    assert table.notna().all().all()
    assert not (table == "nan").any().any()
    assert set(table["schooling"]) == {"no diploma", "high school", "college", "degree"}


def test_right_scores_are_rarely_flagged_whatever_the_number_of_groups(census):
    """The null is that of the largest of all: one audit in twenty raises any flag."""
    table, family = census
    members = family.members(table)[:3000]
    rng = np.random.default_rng(0)
    scores = rng.beta(1, 3, 3000)
    flagged = cells = 0
    for seed in range(40):
        y = (rng.random(3000) < scores).astype(np.int64)
        audit = audit_groups(Sample(y, scores, members), family.names, n_simulations=99, seed=seed)
        flagged += audit.n_flagged > 0
        cells += audit.n_cells_flagged > 0
        assert audit.worst_z > 1.9  # that of a single group would pass for a finding
    assert flagged <= 6
    assert cells <= 6


def test_calibrated_for_each_attribute_is_not_calibrated_where_they_cross():
    sample, family = crossed(8000, 0, 0.1)
    audit = audit_groups(sample, family.names)
    by_name = dict(zip(audit.names, audit.z))
    for single in ("x=0", "x=1", "z=0", "z=1"):
        assert abs(by_name[single]) < audit.null_q95
    for crossing in ("x=0 & z=0", "x=1 & z=0"):
        assert abs(by_name[crossing]) > audit.null_q95
    assert audit.p_value < 0.01
    assert audit.rms == pytest.approx(0.07, abs=0.02)  # 0 in five groups of nine, 0.1 in four


def test_multicalibration_repairs_the_crossing_on_rows_it_has_not_seen():
    fit, _ = crossed(6000, 1, 0.1)
    held, _ = crossed(3000, 2, 0.1)
    new, family = crossed(6000, 3, 0.1)
    corrected = multicalibrate(fit, held)
    after = Sample(new.y_true, corrected(new.scores, new.members), new.members)
    before, audit = audit_groups(new, family.names), audit_groups(after, family.names)
    assert before.worst_z > before.null_q95
    assert audit.worst_z < audit.null_q95
    assert np.mean((after.scores - new.y_true) ** 2) < np.mean((new.scores - new.y_true) ** 2)


def test_held_out_rows_stop_the_corrections_of_a_score_that_needs_none():
    """Every deviation is noise: corrected without a check, the score gets worse and worse."""
    fit, _ = crossed(1500, 1, 0.0)
    held, _ = crossed(1500, 2, 0.0)
    found = multicalibrate(fit, held, alpha=0.0, patience=100, max_updates=100)
    assert found.held_out_loss[-1] > found.held_out_loss[0]
    assert len(found.updates) <= 5
    assert found.held_out_loss[len(found.updates)] == found.held_out_loss.min()


def test_a_replayed_correction_is_the_one_that_was_fitted():
    fit, _ = crossed(3000, 1, 0.1)
    held, _ = crossed(3000, 2, 0.1)
    found = multicalibrate(fit, held)
    new = found(held.scores, held.members)
    loss = -np.mean(np.log(np.where(held.y_true == 1, new, 1 - new)))
    assert loss == pytest.approx(found.held_out_loss.min())
    assert held.scores.min() >= 0.3  # the input is not changed


def test_the_z_of_everybody_is_that_of_the_formula():
    sample, family = crossed(500, 0, 0.1)
    audit = audit_groups(sample, family.names)
    residual = sample.y_true - sample.scores
    variance = sample.scores * (1 - sample.scores)
    assert audit.z[0] == pytest.approx(residual.sum() / np.sqrt(variance.sum()))
    assert audit.mean_residual[0] == pytest.approx(residual.mean())
    cell = (sample.scores > 0.4) & (sample.scores <= 0.5) & sample.members[:, 1]
    expected = residual[cell].sum() / np.sqrt(variance[cell].sum())
    assert audit.cell_z[1, 4] == pytest.approx(expected)


def test_a_group_with_few_rows_is_not_judged_and_not_zero():
    sample, family = crossed(300, 0, 0.0)
    audit = audit_groups(sample, family.names, min_rows=100)
    assert np.isnan(audit.z[family.names.index("x=0 & z=0")])
    assert audit.n_audited == 5
    with pytest.raises(InputError, match="must be >= min_rows = 1000"):
        audit_groups(sample, family.names, min_rows=1000)


def test_bad_columns_and_shapes_are_named():
    sample, family = crossed(300, 0, 0.0)
    table = pd.DataFrame({"x": ["0", None]})
    with pytest.raises(InputError, match="missing values"):
        overlapping_groups(table, ["x"])
    with pytest.raises(InputError, match="no column 'z'"):
        family.members(table)
    with pytest.raises(InputError, match="must be bool"):
        audit_groups(Sample(sample.y_true, sample.scores, sample.members[:5]), family.names)
    with pytest.raises(InputError, match="groups of held_out = 1"):
        multicalibrate(sample, Sample(sample.y_true, sample.scores, sample.members[:, :1]))
