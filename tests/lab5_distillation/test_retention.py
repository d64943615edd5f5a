"""Retention and gain: what is drawn together, and how often the intervals hold the truth."""

import numpy as np
import pytest

from common.errors import InputError
from labs.lab5_distillation import retention


def grid(seeds, texts, accuracy, seed=0):
    """Answers that are right by a coin for each seed and text (synthetic)."""
    return np.random.default_rng(seed).random((seeds, texts)) < accuracy


@pytest.mark.exercise("5.20")
def test_a_student_equal_to_its_teacher_retains_all_of_it_in_every_draw():
    """Both answer the drawn texts, so the hard texts cancel: 1, without any spread.

    Drawn apart, a student identical to its teacher seems to keep 96 to 104 %.
    """
    teacher = grid(1, 200, 0.8)[0]
    draws = retention.retention_draws(np.stack([teacher] * 3), teacher, n_boot=200)
    assert draws.shape == (200,), f"shape {draws.shape}, expected (200,)"
    assert draws.min() == pytest.approx(1) and draws.max() == pytest.approx(1), (  # noqa: PT018
        f"draws from {draws.min():.4f} to {draws.max():.4f}, expected 1 always"
    )


@pytest.mark.exercise("5.20")
def test_seeds_are_drawn_too():
    """One student always right, one never: 0, 1/2 and 1 in a quarter, half and quarter of draws.

    With the seeds kept as they are, every draw says 1/2 and the interval has no width, while the
    next training may give either.
    """
    student = np.array([[1] * 50, [0] * 50])
    draws = retention.retention_draws(student, np.ones(50), n_boot=2000)
    shares = [float((abs(draws - value) < 1e-9).mean()) for value in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.05), (
        f"shares of 0, 1/2 and 1: {shares}, expected 0.25, 0.5, 0.25"
    )


@pytest.mark.exercise("5.20")
def test_texts_are_drawn_and_the_same_for_every_seed():
    """Three equal students, right in half of 100 texts: a spread of sqrt(0.25 / 100) = 0.05.

    Other texts for each seed would pretend to have 300 of them (0.029), and no drawn texts none.
    """
    answers = np.arange(100) % 2
    draws = retention.retention_draws(np.stack([answers] * 3), np.ones(100), n_boot=3000)
    spread = float(draws.std())
    assert spread == pytest.approx(0.05, rel=0.1), f"spread {spread:.4f}, expected 0.0500"


@pytest.mark.exercise("5.20")
def test_a_teacher_of_each_seed_is_drawn_with_its_student():
    """A good teacher with a good student, a bad one with a bad one: each pair retains all.

    And the draw is one ratio of two means: 1, whichever pairs are drawn.
    """
    teacher = np.stack([np.ones(40), np.arange(40) % 4 == 0])
    draws = retention.retention_draws(teacher, teacher, n_boot=300)
    assert float(abs(draws - 1).max()) == pytest.approx(0), (
        f"draws from {draws.min():.4f} to {draws.max():.4f}, expected 1 always"
    )


@pytest.mark.exercise("5.20")
def test_a_draw_is_a_ratio_of_means():
    """Students right in 1 and 1/2, teachers in 1/4 and 1: (3/2) / (5/4) = 1.2 with both drawn.

    The mean of the two ratios would be 2.25: a pair with a poor teacher would count most.
    """
    student = np.stack([np.ones(400), np.arange(400) % 2 == 0])
    teacher = np.stack([np.arange(400) % 4 == 0, np.ones(400)])
    draws = retention.retention_draws(student, teacher, n_boot=400)
    middle = float(np.median(draws))
    assert middle == pytest.approx(1.2, abs=0.1), f"median {middle:.3f}, expected 1.200"


def test_draws_depend_on_their_seed_alone():
    """The same seed gives the same draws: a report can be made again."""
    answers, teacher = grid(2, 60, 0.7), grid(1, 60, 0.8, seed=1)[0]
    first = retention.retention_draws(answers, teacher, n_boot=50, seed=3)
    again = retention.retention_draws(answers, teacher, n_boot=50, seed=3)
    other = retention.retention_draws(answers, teacher, n_boot=50, seed=4)
    assert (first == again).all()
    assert (first != other).any()


def test_of_one_seed_the_interval_is_the_usual_one_over_texts():
    """And it says that it knows nothing of another training."""
    values = grid(1, 500, 0.8).astype(float)
    mean, low, high, df = retention.grid_interval(values)
    half = 1.9647 * values.std(ddof=1) / np.sqrt(500)
    assert (high - low) / 2 == pytest.approx(half, rel=1e-3)
    assert mean == pytest.approx(values.mean())
    assert df == 499
    found = retention.retention(values, np.ones(500), n_boot=200)
    assert found.seed_ci95 is None
    assert "one seed" in found.how


def test_seeds_alone_give_the_t_interval_of_their_means():
    """Seeds differ and texts do not: two degrees of freedom, 4.30 standard errors."""
    values = np.repeat([[0.90], [0.92], [0.97]], 50, axis=1)
    _, low, high, df = retention.grid_interval(values)
    assert df == pytest.approx(2)
    assert (low, high) == pytest.approx(retention.seed_interval([0.90, 0.92, 0.97]))
    assert (high - low) / 2 == pytest.approx(4.30265 * np.std([0.9, 0.92, 0.97], ddof=1) / 3**0.5)


def test_the_variance_of_the_mean_is_estimated_without_bias():
    """Seeds, texts and their interaction each add their part (simulated, all three normal)."""
    from scipy.special import stdtrit

    rng = np.random.default_rng(0)
    spread = {"seed": 0.3, "text": 1.0, "rest": 1.0}
    truth = 0.3**2 / 3 + 1.0 / 40 + 1.0 / 120
    found = []
    for _ in range(1500):
        values = (
            spread["seed"] * rng.standard_normal((3, 1))
            + spread["text"] * rng.standard_normal(40)
            + spread["rest"] * rng.standard_normal((3, 40))
        )
        _, low, high, df = retention.grid_interval(values)
        found.append(((high - low) / 2 / stdtrit(df, 0.975)) ** 2)
    assert np.mean(found) == pytest.approx(truth, rel=0.08)


def trained(rng, texts, seeds, seed_sd, shift):
    """Right answers of a teacher, and of students that are ``shift`` worse (synthetic)."""
    margin = rng.normal(3.0, 2.0, texts)
    noise = seed_sd * rng.standard_normal((seeds, 1)) + rng.standard_normal((seeds, texts))
    return margin > 0, margin - shift + noise > 0


def coverage(seeds, seed_sd, runs=120, texts=400):
    """How often both intervals of retention hold its true value."""
    rng = np.random.default_rng(1)
    worlds = [trained(rng, 4000, 4, seed_sd, 0.4) for _ in range(150)]
    truth = np.mean([s.mean() for _, s in worlds]) / np.mean([t.mean() for t, _ in worlds])
    hits = np.zeros(2)
    for _ in range(runs):
        teacher, student = trained(rng, texts, seeds, seed_sd, 0.4)
        found = retention.retention(student, teacher, n_boot=120)
        for i, (low, high) in enumerate((found.ci95, found.bootstrap_ci95)):
            hits[i] += low <= truth <= high
    return hits / runs


def test_the_interval_holds_the_truth_where_texts_decide():
    """Seeds hardly differ: 95 % are promised, and both ways keep it (simulated)."""
    crossed, bootstrap = coverage(seeds=3, seed_sd=0.05)
    assert crossed >= 0.91, crossed
    assert bootstrap >= 0.91, bootstrap


def test_with_three_seeds_that_differ_the_bootstrap_is_too_narrow():
    """Three values drawn from three know too little of a fourth; t with two degrees more."""
    crossed, bootstrap = coverage(seeds=3, seed_sd=0.6)
    assert crossed >= 0.88, crossed
    assert bootstrap <= 0.87, bootstrap
    assert crossed > bootstrap + 0.05


def test_a_gain_is_paired_by_text():
    """Both miss the same hard texts, so the difference is known far better than either accuracy."""
    rng = np.random.default_rng(2)
    hard = rng.random(800) < 0.2
    distilled = np.stack([~hard] * 3)
    alone = distilled & (rng.random((3, 800)) > 0.02)
    gain = retention.paired_gain(distilled, alone, n_boot=300)
    width = gain.ci95[1] - gain.ci95[0]
    single = retention.grid_interval(distilled)
    assert gain.value == pytest.approx(np.mean(gain.per_seed))
    assert gain.outside
    assert gain.ci95[0] > 0
    assert width < 0.5 * (single[2] - single[1])


def test_two_equal_methods_show_a_gain_in_few_of_many_comparisons():
    """The interval excludes 0 in about 5 % where no difference is (simulated)."""
    rng = np.random.default_rng(3)
    outside = 0
    for _ in range(200):
        easy = rng.beta(8, 1, 300)
        first, second = (rng.random((3, 300)) < easy for _ in range(2))
        outside += retention.paired_gain(first, second, n_boot=2).outside
    assert outside <= 20, outside


def test_a_loss_is_outside_as_well():
    """NLL is better when it is less: the interval may lie below 0."""
    assert retention.paired_gain(np.full((2, 30), 0.1), np.full((2, 30), 0.3), n_boot=5).outside


@pytest.mark.parametrize(
    ("student", "teacher", "word"),
    [
        (np.ones(5), np.ones(5), "must be"),
        (np.ones((2, 5)), np.ones(4), "same texts"),
        (np.ones((2, 5)), np.zeros(5), "none to retain"),
    ],
)
def test_grids_that_do_not_fit_are_refused(student, teacher, word):
    """Broadcasting would pair seeds with texts in silence."""
    with pytest.raises(InputError, match=word):
        retention.retention(student, teacher)


def test_unpaired_seeds_are_refused():
    """Three distilled and two fine-tuned students cannot be subtracted."""
    with pytest.raises(InputError, match="same seeds and texts"):
        retention.paired_gain(np.ones((3, 5)), np.ones((2, 5)))
