"""Several teachers as one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation import ensemble

MORE = settings(derandomize=True, deadline=None, max_examples=30)


def draw(seed, members=3, n=5, classes=4, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(n, classes, generator=generator).double() for _ in range(members)]


@MORE
@given(seed=st.integers(0, 999), temperature=st.floats(0.5, 8), members=st.integers(1, 4))
def test_its_softened_softmax_is_the_mean_of_the_members(seed, temperature, members):
    """What a loss at the same temperature reads is the mean of the softened probabilities."""
    logits = draw(seed, members)
    weights = np.random.default_rng(seed).random(members) + 0.1
    found = ensemble.mean_of_probabilities(
        logits, temperature=temperature, weights=weights.tolist()
    )
    expected = sum(
        weight * torch.softmax(each / temperature, -1)
        for weight, each in zip(weights / weights.sum(), logits)
    )
    np.testing.assert_allclose(torch.softmax(found / temperature, -1), expected, rtol=1e-9)


def test_one_member_is_itself():
    (logits,) = draw(0, 1)
    found = ensemble.mean_of_probabilities([logits], temperature=3.0)
    np.testing.assert_allclose(found.softmax(-1), logits.softmax(-1), rtol=1e-9)


def test_a_member_with_larger_logits_has_one_vote_of_probabilities_and_most_of_logits():
    """Two members say the first class, one says the second with logits ten times as large."""
    quiet, loud = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[0.0, 30.0, 0.0]])
    votes = ensemble.mean_of_probabilities([quiet, quiet, loud], temperature=1.0)
    scale = ensemble.mean_of_logits([quiet, quiet, loud])
    assert int(votes.argmax()) == 0
    assert int(scale.argmax()) == 1


def test_a_weight_of_nothing_leaves_a_member_out():
    logits = draw(1, 2)
    found = ensemble.mean_of_probabilities(logits, temperature=2.0, weights=[1.0, 0.0])
    assert torch.isfinite(found).all()
    np.testing.assert_allclose(found.softmax(-1), logits[0].softmax(-1), rtol=1e-9)


@MORE
@given(seed=st.integers(0, 999), members=st.integers(2, 4))
def test_the_ensemble_is_never_less_likely_than_its_members_on_average(seed, members):
    """-log of a mean is at most the mean of -log (Jensen)."""
    logits = draw(seed, members)
    labels = np.random.default_rng(seed).integers(0, 4, 5)
    found = ensemble.report(logits, labels)
    assert found.nll <= found.mean_nll + 1e-9
    accuracies = [float((each.argmax(-1).numpy() == labels).mean()) for each in logits]
    assert found.accuracies == pytest.approx(accuracies)
    assert found.gain == pytest.approx(found.accuracy - np.mean(accuracies))


def test_members_that_are_the_same_gain_nothing():
    (logits,) = draw(3, 1)
    found = ensemble.report([logits, logits], np.zeros(5, np.int64))
    assert (found.agreement, found.gain) == (1.0, 0.0)
    assert found.nll == pytest.approx(found.mean_nll)


def test_members_that_fail_on_different_texts_gain():
    """Each of three is wrong, and unsure, on a text of its own: together they are right on all."""
    right = 5 * torch.eye(3)
    members = []
    for row in range(3):
        logits = right.clone()
        logits[row] = torch.tensor([0.0, 0.0, 0.0])
        logits[row, (row + 1) % 3] = 0.5
        members.append(logits)
    found = ensemble.report(members, np.arange(3))
    assert found.accuracies == pytest.approx((2 / 3,) * 3)
    assert found.accuracy == 1.0
    assert found.agreement == pytest.approx(1 / 3)


def test_an_ensemble_of_teachers_is_a_teacher():
    first, second = draw(4, 2)
    teacher = ensemble.EnsembleTeacher(
        [lambda rows: first[rows], lambda rows: second[rows]], temperature=2.0
    )
    rows = torch.tensor([3, 1])
    expected = ensemble.mean_of_probabilities([first, second], temperature=2.0)[rows]
    np.testing.assert_allclose(teacher(rows), expected)


@pytest.mark.parametrize(
    ("members", "weights", "message"),
    [
        ([], None, "no member"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], None, r"\(2, 3\), \(2, 4\)"),
        ([torch.zeros(2, 3)], [1.0, 1.0], "number of weights = 2 must be 1"),
        ([torch.zeros(2, 3)], [-1.0], "must be >= 0"),
        ([torch.zeros(2, 3)], [0.0], "not all 0"),
    ],
)
def test_what_is_no_ensemble_is_refused(members, weights, message):
    with pytest.raises(InputError, match=message):
        ensemble.mean_of_probabilities(members, temperature=1.0, weights=weights)
