import numpy as np
import pytest
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import Lime
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from common.errors import InputError
from labs.lab3_fairness import lime as lm
from labs.lab3_fairness.explanation_checks import seed_spread
from labs.lab3_fairness.shapley import exact_shapley

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
WEIGHTS = np.array([1.0, -2.0, 0.5, 0.0])


def linear(x):
    return x @ WEIGHTS + 3


def bent(x):
    return 1 / (1 + np.exp(-(x[:, 0] * x[:, 1] + x[:, 2])))


def table(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d))


@QUICK
@given(st.integers(0, 10_000), st.floats(0.01, 10))
def test_the_weighted_ridge_is_scikit_learns(seed, alpha):
    """The intercept is not shrunk, and weights enter the centre as well as the sums."""
    rng = np.random.default_rng(seed)
    design, outputs, weights = table(30, 4, seed), rng.normal(size=30), rng.random(30) + 0.01
    got = lm.weighted_ridge(design, outputs, weights, alpha)
    expected = Ridge(alpha=alpha).fit(design, outputs, sample_weight=weights).coef_
    assert got == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("f", [linear, bent])
def test_captum_finds_the_same_coefficients_from_the_same_draws(f):
    """Nothing is hidden in the library: draws, weights, ridge. captum fits in float32."""
    row, reference, width = table(1, 4, 0)[0], table(1, 4, 1), 1.5
    around = lm.masked(reference)(row, 200, np.random.default_rng(0))
    ours = lm.weighted_ridge(around.design, f(around.rows), lm.kernel(around.distance, width), 1.0)
    draws = iter(torch.from_numpy(around.design).long())

    def similarity(_original, _perturbed, kept, **_):
        return torch.exp(-(kept == 0).sum().double() / (2 * width**2)).reshape(1)

    explainer = Lime(
        lambda x: torch.from_numpy(f(x.numpy())),
        SkLearnRidge(alpha=1.0),
        similarity_func=similarity,
        perturb_func=lambda *_, **__: next(draws)[None],
    )
    library = explainer.attribute(
        torch.from_numpy(row[None]), baselines=torch.from_numpy(reference), n_samples=200
    )
    assert library.detach().numpy()[0] == pytest.approx(ours, abs=1e-5)


def test_captum_lime_and_ours_agree_within_their_seeds():
    """Own draws each: the means over seeds meet, as two runs of one method must."""
    rows, reference = table(2, 4, 0), table(1, 4, 1)
    ours = seed_spread(
        lambda seed: lm.lime(bent, rows, lm.masked(reference), n_samples=400, seed=seed), range(8)
    )
    library = seed_spread(
        lambda seed: lm.captum_lime(bent, rows, reference[0], n_samples=400, seed=seed), range(8)
    )
    error = np.sqrt(ours.std**2 / 8 + library.std**2 / 8) + 1e-5
    assert (np.abs(ours.mean - library.mean) < 4 * error).all()


def test_captums_seed_decides_alone_and_leaves_torch_as_it_was():
    rows, reference = table(1, 4, 0), table(1, 4, 1)[0]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = lm.captum_lime(bent, rows, reference, n_samples=50, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert np.array_equal(first, lm.captum_lime(bent, rows, reference, n_samples=50, seed=3))
    assert not np.array_equal(first, lm.captum_lime(bent, rows, reference, n_samples=50, seed=4))


def test_masked_neighbours_of_a_linear_model_give_shapley_values():
    """With one reference row keeping a cell adds w_j (x_j - z_j): LIME and SHAP ask the same.

    With many neighbours and little shrinkage the coefficient is that number.
    """
    rows, reference = table(3, 4, 2), table(1, 4, 3)
    got = lm.lime(linear, rows, lm.masked(reference), n_samples=3000, alpha=1e-6)
    assert got == pytest.approx(exact_shapley(linear, rows, reference), abs=1e-6)


def test_gaussian_neighbours_of_a_linear_model_give_slopes():
    """A slope is what a standard deviation changes, not what this row's value contributes."""
    background = table(500, 4, 4) * [1.0, 3.0, 0.5, 2.0]
    got = lm.lime(linear, table(2, 4, 5), lm.gaussian(background), n_samples=3000, alpha=1e-6)
    assert got == pytest.approx(np.tile(WEIGHTS * background.std(axis=0), (2, 1)), abs=1e-5)


def test_the_spread_between_seeds_falls_with_the_root_of_the_neighbours():
    """Sixteen times the neighbours, a quarter of the spread: patience is all that helps."""
    rows, reference = table(4, 4, 6), table(20, 4, 7)

    def spread(n_samples):
        return seed_spread(
            lambda seed: lm.lime(bent, rows, lm.masked(reference), n_samples=n_samples, seed=seed),
            range(30),
        ).std.mean()

    assert 3 < spread(200) / spread(3200) < 5.5


def test_a_narrow_kernel_is_stable_because_it_says_nothing():
    """Little weight in all, so the ridge pulls every coefficient to 0, for every seed alike.

    Small spread is no sign of truth: read it beside the size of the coefficients.
    """
    found = lm.settings_table(
        bent, table(3, 4, 8), lm.masked(table(20, 4, 9)), sizes=(200,), widths=(0.3, 2.0)
    ).set_index("kernel_width")
    narrow, wide = found.loc[0.3], found.loc[2.0]
    assert narrow["spread"] < wide["spread"] / 3
    assert narrow["mean_coefficient"] < wide["mean_coefficient"] / 5


def test_samples_needed_is_the_first_doubling_within_the_bound():
    rows, perturb = table(2, 4, 10), lm.masked(table(20, 4, 11))

    def explain(n_samples, seed):
        return lm.lime(bent, rows, perturb, n_samples=n_samples, seed=seed)

    needed = lm.samples_needed(explain, bound=0.02, start=50)
    seen = {
        size: seed_spread(lambda seed, size=size: explain(size, seed), range(10)).std.max()
        for size in (needed, needed // 2)
    }
    assert seen[needed] <= 0.02 < seen[needed // 2]
    with pytest.raises(InputError, match=r"bound = 0.0001 is not reached with 400 neighbours"):
        lm.samples_needed(explain, bound=0.0001, limit=400)


def test_a_row_far_from_everybody_has_no_explanation():
    """Neighbours are drawn around the mean. Far from it all weights vanish, and a ranking of what
    is left would be a ranking of rounding errors."""
    background = table(200, 4, 12)
    rows = np.stack([background[0], background[0] + 40])
    got = lm.lime(bent, rows, lm.gaussian(background))
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 1}, "n_samples = 1 must be >= 2"),
        ({"kernel_width": 0.0}, r"width = 0.0 must be > 0"),
        ({"kernel_width": 0.01}, "kernel_width = 0.01 gives no neighbour weight"),
        ({"alpha": 0.0}, r"alpha = 0.0 must be > 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        lm.lime(bent, table(1, 4, 1), lm.gaussian(table(50, 4, 0)), **options)


WRONG_OUTPUTS = [
    (lambda x: np.where(x[:, 0] > 0, np.nan, x[:, 0]), "is not finite"),
    (lambda x: np.full(len(x), np.inf), "is not finite"),
    (lambda x: np.stack([x[:, 0], x[:, 1]], axis=1), r"must be \[m\]"),
    (lambda x: x[:, :1], r"must be \[m\]"),
    (lambda x: x[:1, 0], r"must be \[m\]"),
    (lambda x: 0.5, r"must be \[m\]"),
]


@pytest.mark.parametrize(("f", "message"), WRONG_OUTPUTS)
def test_a_model_without_one_finite_output_a_row_is_not_explained(f, message):
    """A NaN would look like a row without neighbours, which is another finding."""
    rows, reference = table(2, 4, 0), table(5, 4, 1)
    with pytest.raises(InputError, match=message):
        lm.lime(f, rows, lm.masked(reference), n_samples=20)
    with pytest.raises(InputError, match=message):
        lm.captum_lime(f, rows, reference[0], n_samples=20)
