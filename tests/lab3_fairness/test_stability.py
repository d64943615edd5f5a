import numpy as np
import pandas as pd
import pytest

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import figures_mitigation, stability
from labs.lab3_fairness.fair_loss import (
    BatchGap,
    FairNetwork,
    TargetPoint,
    Training,
    fair_network,
)
from labs.lab3_fairness.mitigation import Mitigated, methods, subsample, unmitigated
from labs.lab3_fairness.tabular import Task, adult_task


@pytest.fixture(scope="module")
def small():
    data = load("adult")
    return tuple(subsample(adult_task(data.table(name)), 800) for name in ("train", "test"))


def task_of(n):
    labels, groups = np.arange(n) % 2, np.array(["a", "b"], dtype=object)[np.arange(n) // 2 % 2]
    return Task(pd.DataFrame({"x": np.zeros(n)}), labels, groups)


def run_of(positive, randomised=False):
    return Mitigated("m", "in", np.asarray(positive, dtype=float), randomised, False, 0.0)


def test_two_runs_that_swap_two_people_flip_them_though_no_rate_moves():
    """Rows 0 and 4 have the same label and group: every mean is equal, two of eight people are
    decided about differently."""
    runs = [run_of([1, 0, 0, 0, 0, 0, 0, 0]), run_of([0, 0, 0, 0, 1, 0, 0, 0])]
    found = stability.compare_runs(runs, task_of(8))
    assert np.ptp(found.accuracy) == np.ptp(found.dp_diff) == np.ptp(found.eo_diff) == 0
    assert (found.flips, found.unsettled, found.coin) == (0.25, 0.25, 0.0)


def test_a_coin_flips_against_itself():
    """Chance 1/2 for half of the rows: they differ every second time, within a run and between."""
    run = run_of([0.5, 0.5, 0.5, 0.5, 1, 1, 0, 0], randomised=True)
    found = stability.compare_runs([run, run], task_of(8))
    assert (found.flips, found.coin, found.unsettled) == (0.25, 0.25, 0.5)


def test_flips_are_what_a_simulation_of_the_coins_gives():
    rng = np.random.default_rng(0)
    p, q = rng.random(8), rng.random(8)
    found = stability.compare_runs([run_of(p, True), run_of(q, True)], task_of(8))
    tosses = (rng.random((20_000, 8)) < p) != (rng.random((20_000, 8)) < q)
    assert tosses.mean() == pytest.approx(found.flips, abs=0.01)


def test_a_convex_fit_has_no_seed_and_still_depends_on_its_sample(small):
    """Zero spread over seeds is not stability: other rows give another model."""
    seeds = stability.across_seeds(unmitigated, *small, range(3))
    samples = stability.across_samples(unmitigated, *small, range(3))
    assert (seeds.flips, np.ptp(seeds.dp_diff)) == (0, 0)
    assert samples.flips > 0.01
    assert np.ptp(samples.dp_diff) > 0


def test_a_network_depends_on_its_seed(small):
    found = stability.across_seeds(methods()["adversarial_dp"], *small, range(3))
    assert found.flips > 0
    assert found.coin == 0
    assert found.name == "adversarial_dp"


def test_one_seed_or_two_methods_cannot_be_compared(small):
    with pytest.raises(InputError, match="two different"):
        stability.across_seeds(unmitigated, *small, [1, 1])
    with pytest.raises(InputError, match="two different"):
        stability.across_samples(unmitigated, *small, [1])
    with pytest.raises(InputError, match="two or more"):
        stability.compare_runs([run_of(np.zeros(8))], task_of(8))


def test_every_figure_can_be_drawn(small, tmp_path):
    train, test = small
    runs = [run_of(np.ones(8)), run_of(np.zeros(8))]
    outcome = fair_network(train, test, seed=0, name="n", training=Training(steps=3)).outcome(
        test, n_boot=20
    )
    path = FairNetwork(None, np.ones(4), np.full((4, 2), 0.1), np.ones((4, 2)))
    figures = [
        figures_mitigation.draw_training(path, 0.05),
        figures_mitigation.draw_target_path([TargetPoint(t, outcome) for t in (0.1, 0.02)]),
        figures_mitigation.draw_batch_gaps([BatchGap(16, 0.3, 0.5), BatchGap(64, 0.2, 0.0)], 0.1),
        figures_mitigation.draw_seed_spread([stability.compare_runs(runs, task_of(8))] * 2),
    ]
    for number, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{number}.png")
        for axes in figure.axes:
            assert axes.get_xlabel() or axes.get_ylabel()
