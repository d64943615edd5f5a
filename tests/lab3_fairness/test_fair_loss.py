import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import fair_loss
from labs.lab3_fairness.decisions import expected_rates
from labs.lab3_fairness.mitigation import check_task, design_matrices, subsample
from labs.lab3_fairness.tabular import adult_task

# Four rows of each group: two with label 0, two with label 1.
LABELS = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
CODES = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])


def logit(p):
    return torch.log(torch.tensor(p) / (1 - torch.tensor(p)))


@pytest.fixture(scope="module")
def adult():
    data = load("adult")
    return adult_task(data.table("train")), adult_task(data.table("test"))


@pytest.mark.exercise("3.11")
def test_demographic_parity_compares_mean_soft_decisions():
    """Group 0 is selected with .2, .4, .6, .8 (mean .5), group 1 with .1, .1, .3, .5 (.25)."""
    soft = [0.2, 0.4, 0.6, 0.8, 0.1, 0.1, 0.3, 0.5]
    got = fair_loss.soft_gaps(logit(soft), LABELS, CODES, constraint="dp", temperature=1.0)
    assert got.shape == (1,), f"expected shape (1,), got {tuple(got.shape)}"
    assert got.item() == pytest.approx(0.25, abs=1e-6), f"expected 0.25, got {got.item()}"


@pytest.mark.exercise("3.11")
def test_equalized_odds_compares_within_each_label():
    """Label 0: .3 and .1, a gap of .2. Label 1: .7 and .4, a gap of .3.

    Means over the whole group would be demographic parity under another name, and would ask for
    equal rates of groups whose labels differ.
    """
    soft = [0.2, 0.4, 0.6, 0.8, 0.1, 0.1, 0.3, 0.5]
    got = fair_loss.soft_gaps(logit(soft), LABELS, CODES, constraint="eo", temperature=1.0)
    assert got.shape == (2,), f"expected shape (2,), got {tuple(got.shape)}"
    np.testing.assert_allclose(
        got, [0.2, 0.3], atol=1e-6, err_msg=f"expected 0.2 and 0.3, got {got.tolist()}"
    )


@pytest.mark.exercise("3.11")
def test_a_gap_is_a_gap_whichever_group_is_ahead():
    """With a sign, the loss would reward the reverse disparity without limit."""
    soft = torch.tensor([0.2, 0.4, 0.6, 0.8, 0.1, 0.1, 0.3, 0.5])
    for constraint, expected in (("dp", [0.25]), ("eo", [0.2, 0.3])):
        swapped = fair_loss.soft_gaps(
            logit(soft.tolist()), LABELS, 1 - CODES, constraint=constraint, temperature=1.0
        )
        np.testing.assert_allclose(
            swapped,
            expected,
            atol=1e-6,
            err_msg=f"{constraint}, groups swapped: expected {expected}, got {swapped.tolist()}",
        )


@pytest.mark.exercise("3.11")
def test_a_step_against_the_gradient_narrows_the_gap():
    """The gradient must arrive: a step (logit > 0) has none, and so has a detached number."""
    logits = torch.tensor([0.1, 0.3, -0.1, 0.2, -0.2, 0.1, -0.3, -0.1], requires_grad=True)
    gap = fair_loss.soft_gaps(logits, LABELS, CODES, constraint="dp", temperature=0.2)
    assert gap.requires_grad, "the gap does not depend on the logits: no gradient reaches them"
    (gradient,) = torch.autograd.grad(gap.sum(), logits)
    signs = torch.sign(gradient).tolist()
    expected = [1.0] * 4 + [-1.0] * 4
    assert signs == expected, f"group 0 is ahead: expected signs {expected}, got {signs}"
    after = fair_loss.soft_gaps(
        logits - 0.05 * gradient, LABELS, CODES, constraint="dp", temperature=0.2
    )
    assert after.item() < gap.item(), f"{gap.item()} before the step, {after.item()} after it"


@pytest.mark.exercise("3.11")
def test_a_batch_that_cannot_compare_says_nothing():
    """No positives of group 1: the true positive rates cannot be compared. NaN, not 0 and not
    the rate of the other group; and the gap that can be compared still is, with its gradient."""
    logits = logit([0.2, 0.4, 0.6, 0.8, 0.1, 0.1]).requires_grad_()
    labels, codes = LABELS[:6], CODES[:6]
    got = fair_loss.soft_gaps(logits, labels, codes, constraint="eo", temperature=1.0)
    assert torch.isnan(got[1]), f"true positive rate: expected NaN, got {got[1].item()}"
    assert got[0].item() == pytest.approx(0.2, abs=1e-6), f"expected 0.2, got {got[0].item()}"
    (gradient,) = torch.autograd.grad(got[0], logits)
    assert torch.isfinite(gradient).all(), f"a NaN came back with the gradient: {gradient}"


@pytest.mark.exercise("3.11")
@given(st.integers(0, 10_000), st.sampled_from(["dp", "eo"]))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_cold_soft_decisions_are_the_decisions(seed, constraint):
    """At a temperature near 0 the soft gap is the gap that an audit reports, for three groups."""
    rng = np.random.default_rng(seed)
    labels, codes = rng.integers(0, 2, 60), np.concatenate([[0, 1, 2], rng.integers(0, 3, 57)])
    logits = rng.normal(size=60)
    table = expected_rates(labels, (logits > 0) * 1.0, codes)
    columns = ["selection_rate"] if constraint == "dp" else ["fpr", "tpr"]
    expected = (table[columns].max() - table[columns].min()).to_numpy()
    got = fair_loss.soft_gaps(
        *(torch.tensor(values) for values in (logits, labels, codes)),
        constraint=constraint,
        temperature=1e-6,
    )
    np.testing.assert_allclose(got, expected, atol=1e-4, err_msg=f"{expected}, got {got}")


def test_the_slope_of_the_price_is_the_multiplier_at_the_target():
    for gap, slope in ((0.05, 0.7), (0.10, 0.7 + 20 * 0.05), (0.0, 0.0)):
        gaps = torch.tensor([gap], requires_grad=True)
        price = fair_loss.augmented_penalty(gaps, torch.tensor([0.7]), target=0.05, mu=20.0)
        (got,) = torch.autograd.grad(price, gaps)
        assert got.item() == pytest.approx(slope, abs=1e-5)


def test_a_gap_that_is_not_known_costs_nothing_and_moves_no_multiplier():
    gaps = torch.tensor([float("nan"), 0.2], requires_grad=True)
    multipliers = torch.tensor([0.4, 0.1])
    price = fair_loss.augmented_penalty(gaps, multipliers, target=0.1, mu=2.0)
    assert torch.isfinite(price)
    raised = fair_loss.raised_multipliers(gaps, multipliers, target=0.1, mu=2.0)
    np.testing.assert_allclose(raised, [0.4, 0.3], atol=1e-6)
    fallen = fair_loss.raised_multipliers(torch.zeros(2), multipliers, target=0.1, mu=2.0)
    np.testing.assert_allclose(fallen, [0.2, 0.0], atol=1e-6)


@pytest.fixture(scope="module")
def trained(adult):
    train, test = adult
    x, x_test = design_matrices(train, test)
    codes, _ = check_task(train)
    return fair_loss.fit_fair_network(x, train.labels, codes, fair_loss.Training()), x, x_test


def test_the_gap_that_was_asked_for_is_the_gap_that_is_reached(trained, adult):
    """Target .05: the soft gap ends there; the test gap is near it, at accuracy .84."""
    run, _, x_test = trained
    test = adult[1]
    assert run.gaps[-1, 0] == pytest.approx(0.05, abs=0.005)
    table = expected_rates(test.labels, (run.logits(x_test) > 0) * 1.0, test.groups)
    gap = float(np.ptp(table["selection_rate"]))
    accuracy = float(np.average(table["accuracy"], weights=table["n"]))
    assert 0.03 < gap < 0.065, f"DP difference {gap}"
    assert accuracy > 0.835, f"accuracy {accuracy}"


def test_small_batches_see_gaps_that_are_not_there(trained, adult):
    """An absolute difference of noisy rates: 16 rows report over twice the gap of all rows."""
    run, x, _ = trained
    train = adult[0]
    codes, _ = check_task(train)
    gaps = fair_loss.gap_by_batch(
        run.logits(x), train.labels, codes, (16, 2048), constraint="dp", draws=100
    )
    assert gaps[0].mean > 2 * gaps[1].mean
    odds = fair_loss.gap_by_batch(
        run.logits(x), train.labels, codes, (16,), constraint="eo", which=1, draws=100
    )
    assert odds[0].undefined > 0.2, "most batches of 16 have no woman with a high income"


@pytest.fixture(scope="module")
def small(adult):
    train = subsample(adult[0], 1000)
    x, _ = design_matrices(train, train)
    return x, train.labels, check_task(train)[0]


@pytest.mark.parametrize("constraint", [None, "dp", "eo"])
@pytest.mark.parametrize("batch", [None, 8])
def test_training_is_a_function_of_its_seed(small, constraint, batch):
    """Also on batches in which a rate often cannot be compared: no NaN reaches the weights."""
    training = fair_loss.Training(constraint=constraint, steps=20, batch=batch)
    torch.manual_seed(1)
    first = fair_loss.fit_fair_network(*small, training, seed=3).logits(small[0])
    torch.manual_seed(2)
    second = fair_loss.fit_fair_network(*small, training, seed=3).logits(small[0])
    other = fair_loss.fit_fair_network(*small, training, seed=4).logits(small[0])
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.gpu
def test_a_gpu_trains_to_the_same_gap(small):
    training = fair_loss.Training(steps=100)
    on_cpu = fair_loss.fit_fair_network(*small, training)
    on_gpu = fair_loss.fit_fair_network(*small, fair_loss.Training(steps=100, device="cuda"))
    assert on_gpu.gaps[-1, 0] == pytest.approx(on_cpu.gaps[-1, 0], abs=0.02)


def test_a_path_of_targets_trades_accuracy_for_the_gap(adult):
    train, test = subsample(adult[0], 4000), subsample(adult[1], 4000)
    points = fair_loss.target_path(
        train, test, (0.15, 0.02), fair_loss.Training("dp", steps=100), seed=0
    )
    assert [point.target for point in points] == [0.15, 0.02]
    assert points[0].outcome.dp_diff > points[1].outcome.dp_diff


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constraint": "odds"}, "constraint"),
        ({"target": 1.0}, "target"),
        ({"cold": 0.5}, "cold"),
        ({"batch": 1}, "batch"),
        ({"mu": 0.0}, "mu"),
        ({"steps": 0}, "steps"),
        ({"raise_every": 0}, "raise_every"),
        ({"hidden": 0}, "hidden"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_bad_options_name_the_limit(options, message):
    with pytest.raises(InputError, match=message):
        fair_loss.Training(**options)


def test_a_row_that_is_not_finite_has_no_logit(small):
    """NaN is not above 0: the person would be refused."""
    run = fair_loss.fit_fair_network(*small, fair_loss.Training(steps=2))
    columns = small[0].copy()
    for value in (np.nan, np.inf):
        columns[5, 2] = value
        with pytest.raises(InputError, match=r"columns\[5, 2\] = (nan|inf) is not finite"):
            run.logits(columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1, 2, 1, 0, 1]}, "labels = .* must be 0 or 1"),
        ({"labels": [0, 1, np.nan, 1, 0, 1]}, "labels = .* must be 0 or 1"),
        ({"labels": [0, 1]}, "differ in rows"),
        ({"codes": [0, 1]}, "differ in rows"),
        ({"codes": [0] * 6}, "groups = 1 must be at least 2"),
        ({"codes": [0.5] * 6}, "codes"),
        ({"codes": [-1, 1] * 3}, "codes"),
        ({"columns": np.full((6, 1), np.nan)}, r"columns\[0, 0\] = nan is not finite"),
        ({"columns": np.zeros(6)}, "columns"),
    ],
)
@pytest.mark.parametrize("constraint", ["dp", "eo"])
def test_rows_that_cannot_be_learned_from_are_named(change, message, constraint):
    rows = {
        "columns": np.arange(6.0)[:, None],
        "labels": [0, 1, 0, 1, 0, 1],
        "codes": [0, 0, 0, 1, 1, 1],
    } | change
    rows = {name: np.asarray(values) for name, values in rows.items()}
    with pytest.raises(InputError, match=message):
        fair_loss.fit_fair_network(**rows, training=fair_loss.Training(constraint, steps=1))


def test_one_group_is_enough_where_nothing_is_compared():
    """Without a constraint there is no gap, and labels may be bool."""
    columns, codes = np.arange(6.0)[:, None], np.zeros(6, dtype=np.intp)
    plain = fair_loss.Training(None, steps=3)
    first = fair_loss.fit_fair_network(columns, np.array([0, 1] * 3), codes, plain)
    second = fair_loss.fit_fair_network(columns, np.array([False, True] * 3), codes, plain)
    np.testing.assert_array_equal(first.logits(columns), second.logits(columns))
