import numpy as np
import pytest
import torch
from fairlearn.adversarial import AdversarialFairnessClassifier
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load
from common.errors import InputError
from labs.lab3_fairness import adversarial
from labs.lab3_fairness.mitigation import check_task, design_matrices, subsample
from labs.lab3_fairness.tabular import Task, adult_task


@pytest.fixture(scope="module")
def adult():
    data = load("adult")
    return adult_task(data.table("train")), adult_task(data.table("test"))


@pytest.fixture(scope="module")
def small(adult):
    return tuple(subsample(task, 1000) for task in adult)


def gradients(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4, 3), (4,), (1, 4), (1,))
    return [tuple(torch.randn(s, generator=generator) for s in shapes) for _ in range(2)]


def flat(parts):
    return torch.cat([part.flatten() for part in parts])


@given(st.integers(0, 10_000), st.floats(0, 2))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_the_step_never_helps_the_adversary(seed, alpha):
    """Along the step the adversary's loss changes by ``-alpha |h|^2``: nothing of g is in it."""
    g, h = gradients(seed)
    step = adversarial.against_the_adversary(g, h, alpha)
    along = flat(step) @ flat(h)
    assert float(along) == pytest.approx(-alpha * float(flat(h) @ flat(h)), rel=1e-3, abs=1e-3)


def test_the_projection_of_fairlearn_is_none_for_a_matrix():
    """What is left of g still has a share along h in the matrix; in the vectors it has none."""
    g, h = gradients(0)
    step = adversarial.summed_inner_products(g, h, 0.0)
    along = [float((s * b).sum() / b.norm() / a.norm()) for s, a, b in zip(step, g, h)]
    assert abs(along[0]) > 0.1, along
    assert np.abs(along[1:]).max() < 1e-5, along


def test_that_step_is_the_one_fairlearn_takes():
    """One step of plain SGD from the same weights: what fairlearn does is what we say it does."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 5)).astype(np.float32), rng.integers(0, 2, 64)
    a = np.where(x[:, 0] > 0, 1, 0)
    duel = adversarial.Duel("dp", alpha=0.7, epochs=1, batch=64)
    model = adversarial.fairlearn_model(5, duel, seed=0)
    model.set_params(predictor_optimizer="SGD", shuffle=False, learning_rate=1.0)
    before = [p.detach().clone() for p in model.predictor_model.parameters()]
    ours = adversarial.fairlearn_model(5, duel, seed=0)
    logit_to_p = ours.predictor_model(torch.tensor(x))
    loss = torch.nn.BCELoss()
    weights = tuple(ours.predictor_model.parameters())
    own = loss(logit_to_p, torch.tensor(y, dtype=torch.float32)[:, None])
    theirs = loss(ours.adversary_model(logit_to_p), torch.tensor(a, dtype=torch.float32)[:, None])
    g = torch.autograd.grad(own, weights, retain_graph=True)
    h = torch.autograd.grad(theirs, weights)
    with torch.random.fork_rng(devices=[]):
        model.fit(x, y, sensitive_features=a)
    moved = [b - p.detach() for b, p in zip(before, model.predictor_model.parameters())]
    for got, expected in zip(moved, adversarial.summed_inner_products(g, h, 0.7)):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_random_state_of_fairlearn_does_not_reach_torch():
    """fairlearn 0.15 seeds torch with int(u), u < 1: one model for every seed. A study of its
    stability over ``random_state`` would find it perfectly stable."""
    rng = np.random.default_rng(0)
    x, y, a = rng.normal(size=(200, 4)), rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    weights = []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1, 2):
            model = AdversarialFairnessClassifier(
                backend="torch",
                predictor_model=[4, "relu"],
                adversary_model=[],
                shuffle=True,
                random_state=seed,
            )
            model.fit(x, y, sensitive_features=a)
            weights.append(next(model.backendEngine_.predictor_model.parameters()).detach())
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("name", list(adversarial.METHODS))
def test_a_run_is_a_function_of_its_seed_and_leaves_torch_as_it_was(small, name):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = adversarial.METHODS[name](*small, seed=0)
    assert torch.equal(torch.rand(3), expected), "the global generator was moved"
    second = adversarial.METHODS[name](*small, seed=0)
    other = adversarial.METHODS[name](*small, seed=1)
    assert first.name == name
    np.testing.assert_array_equal(first.positive, second.positive)
    assert not np.array_equal(first.positive, other.positive)


def test_equalized_odds_lets_the_adversary_see_the_label():
    seen = adversarial.what_the_adversary_sees(torch.tensor([2.0, 3.0]), torch.tensor([0, 1]), "eo")
    np.testing.assert_allclose(seen, [[2, 0, 0], [3, 3, 1]])
    seen = adversarial.what_the_adversary_sees(torch.tensor([2.0, 3.0]), torch.tensor([0, 1]), "dp")
    np.testing.assert_allclose(seen, [[2], [3]])


def test_the_entropy_is_that_of_the_groups():
    """Two equal groups: log 2; if the label gives the group away, 0 once the label is known."""
    labels, codes = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    assert adversarial._entropy(labels, codes, "dp") == pytest.approx(np.log(2))
    assert adversarial._entropy(labels, codes, "eo") == pytest.approx(0)


def test_the_projection_is_what_closes_the_gap_on_adult(adult):
    """The same alpha without it leaves most of the gap: DP about .05 and .15, from .17."""
    train, test = adult
    x, x_test = design_matrices(train, test)
    codes, _ = check_task(train)
    gaps = []
    for step in (adversarial.against_the_adversary, adversarial.without_projection):
        duel = adversarial.Duel("dp", step=step, epochs=5)
        run = adversarial.fit_duel(x, train.labels, codes, duel)
        chosen = run.logits(x_test) > 0
        gaps.append(
            abs(chosen[test.groups == "Male"].mean() - chosen[test.groups == "Female"].mean())
        )
        assert run.adversary_losses[-30:].mean() < run.entropy
    assert gaps[0] < 0.09 < 0.11 < gaps[1], gaps


def test_fairlearn_takes_two_groups_and_we_take_three(small):
    train, test = small
    three = np.where(np.arange(len(train)) % 3 == 0, "x", train.groups).astype(object)
    many = Task(train.features, train.labels, three)
    assert adversarial.METHODS["adversarial_dp"](many, test, seed=0).positive.shape == (1000,)
    with pytest.raises(InputError, match="two"):
        adversarial.METHODS["fairlearn_adversarial_dp"](many, test, seed=0)


@pytest.mark.parametrize(
    "options", [{"constraint": "odds"}, {"alpha": -1.0}, {"epochs": 0}, {"batch": 1}]
)
def test_bad_options_name_the_limit(options):
    with pytest.raises(InputError, match=next(iter(options))):
        adversarial.Duel(**options)


def test_a_row_that_is_not_finite_is_neither_learned_from_nor_decided_about():
    """NaN is not above 0: the person would be refused."""
    columns, labels, codes = np.arange(6.0)[:, None], np.array([0, 1] * 3), np.array([0, 1] * 3)
    duel = adversarial.Duel(epochs=1, batch=3)
    run = adversarial.fit_duel(columns, labels, codes, duel)
    columns[4] = np.nan
    with pytest.raises(InputError, match=r"columns\[4, 0\] = nan is not finite"):
        run.logits(columns)
    with pytest.raises(InputError, match=r"columns\[4, 0\] = nan is not finite"):
        adversarial.fit_duel(columns, labels, codes, duel)


def test_a_duel_needs_groups_and_labels():
    """An adversary with one group to guess is always right, and teaches nothing."""
    columns, labels, codes = np.arange(6.0)[:, None], np.array([0, 1] * 3), np.array([0, 1] * 3)
    for rows, message in (
        ((columns, labels + 1, codes), "must be 0 or 1"),
        ((columns, labels[:3], codes), "differ in rows"),
        ((columns, labels, np.zeros(6, dtype=int)), "groups = 1 must be at least 2"),
    ):
        with pytest.raises(InputError, match=message):
            adversarial.fit_duel(*rows, adversarial.Duel())
