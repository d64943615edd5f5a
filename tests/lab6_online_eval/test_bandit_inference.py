"""What adaptive collection does to a mean, the repairs, and finding the best arm."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from labs.lab6_online_eval import bandit_inference as inference
from labs.lab6_online_eval import methods_bandits
from labs.lab6_online_eval.bandit_inference import AdaptiveLog
from labs.lab6_online_eval.bandits import ThompsonSampling, play
from labs.lab6_online_eval.validation import validate


def test_the_sums_by_batch_are_those_of_single_rows() -> None:
    """The estimators work on sums; on rows, spelled out, they give the same to 1e-9."""
    rng = np.random.default_rng(0)
    batches, size = 6, 20
    propensity = rng.uniform(0.2, 0.8, batches)
    arm = (rng.random((batches, size)) < propensity[:, None]).astype(int)
    y = rng.standard_normal((batches, size)) + arm
    e = np.stack([1 - propensity, propensity], axis=1)
    parts = [[y[b][arm[b] == a] for a in (0, 1)] for b in range(batches)]
    log = AdaptiveLog(
        propensity=e[None],
        count=np.array([[[len(p) for p in row] for row in parts]], dtype=float),
        total=np.array([[[p.sum() for p in row] for row in parts]]),
        squares=np.array([[[(p**2).sum() for p in row] for row in parts]]),
        size=size,
    )
    found = inference.adaptive_weighted(log)
    for a in (0, 1):
        scores, weights, seen = [], [], np.zeros(0)
        for b in range(batches):
            m = seen.mean() if len(seen) else 0.0
            scores += list(m + (arm[b] == a) * (y[b] - m) / e[b, a])
            weights += [np.sqrt(e[b, a])] * size
            seen = np.concatenate([seen, y[b][arm[b] == a]])
        s, w = np.array(scores), np.array(weights)
        mean = (w * s).sum() / w.sum()
        se = np.sqrt((w**2 * (s - mean) ** 2).sum()) / w.sum()
        assert found.mean[0, a] == pytest.approx(mean, abs=1e-9)
        assert found.se[0, a] == pytest.approx(se, abs=1e-9)
    plain = inference.sample_mean(log)
    rows = y[arm == 1]
    assert plain.mean[0, 1] == pytest.approx(rows.mean(), abs=1e-9)
    assert plain.se[0, 1] == pytest.approx(rows.std(ddof=1) / np.sqrt(len(rows)), abs=1e-9)


def test_sample_means_of_adaptively_played_arms_are_too_low() -> None:
    """Two equal arms: both means are low by 0.015, far beyond chance; IPW's are not.

    The adaptive weights halve the bias; what they repair is the interval.
    """
    found = {(r.estimator, r.arm): r for r in inference.reliability((0.0, 0.0), 6000, 1)}
    for arm in (0, 1):
        plain = found["sample_mean", arm]
        assert plain.bias < -10 * plain.bias_se, plain
        assert abs(found["ipw", arm].bias) < 4 * found["ipw", arm].bias_se, found["ipw", arm]
        weighted = found["adaptive_weighted", arm]
        assert abs(weighted.bias) < 0.75 * abs(plain.bias), (weighted, plain)
        assert 0.94 < weighted.coverage < 0.96, weighted


def test_without_adaptation_the_sample_mean_is_fine() -> None:
    """A floor of one half is an ordinary experiment: no bias, 5 % false positives."""
    log = inference.collect((0.0, 0.0), 4000, np.random.default_rng(2), floor=0.5)
    found = inference.sample_mean(log)
    assert abs(found.mean[:, 0].mean()) < 4 * found.mean[:, 0].std() / np.sqrt(4000)
    z = (found.mean[:, 1] - found.mean[:, 0]) / np.sqrt((found.se**2).sum(axis=1))
    assert (np.abs(z) > norm.isf(0.025)).mean() == pytest.approx(0.05, abs=0.012)


def test_validation_offers_the_honest_methods_and_throws_out_the_two_mistakes() -> None:
    """Adaptive weighting and the weighted estimators hold; the plain mean and the model do not."""
    verdicts = {m.name: (m.flawed, validate(m, 2000, seed=0)) for m in methods_bandits.methods()}
    assert sorted(name for name, (flawed, _) in verdicts.items() if flawed) == [
        "adaptive_sample_mean",
        "ope_model_alone",
    ]
    for name, (flawed, verdict) in verdicts.items():
        assert verdict.offered != flawed, (name, verdict.reasons)


def test_the_simulated_target_is_better_by_the_effect_asked_for() -> None:
    for effect in (0.0, methods_bandits.UPLIFT):
        rates = methods_bandits.click_rates(effect)
        difference = methods_bandits.TARGET - methods_bandits.LOGGING
        value = methods_bandits.CONTEXT_SHARE @ (difference * rates).sum(axis=1)
        assert value == pytest.approx(effect, abs=1e-12)
        assert 0 < rates.min() < rates.max() < 1


def test_top_two_sampling_spends_on_the_contender() -> None:
    """The second best gets a far larger share than under Thompson; the best is named more often."""
    means = (0.5, 0.45, 0.2, 0.1)
    plain = play(ThompsonSampling(), means, 800, 150, seed=3)
    two = play(inference.TopTwo(), means, 800, 150, seed=3)
    shares = [float(each.pulls[:, 1].mean()) / 800 for each in (plain, two)]
    assert shares[1] > 1.3 * shares[0], f"share of the second arm: {shares}"
    named = [inference.share_identified(means, e.wins, e.pulls) for e in (plain, two)]
    assert named[1] >= named[0] - 0.03, named
    equal = play(inference.Uniform(), means, 800, 10, seed=3)
    assert equal.pulls.tolist() == [[200.0] * 4] * 10


def test_top_two_falls_back_on_the_second_when_the_leader_always_leads() -> None:
    wins, losses = np.tile([1e6, 0.0], (500, 1)), np.tile([0.0, 1e6], (500, 1))
    chosen = inference.top_two_thompson(wins, losses, np.random.default_rng(4))
    assert 0.4 < chosen.mean() < 0.6


def test_impossible_designs_are_refused() -> None:
    rng = np.random.default_rng(5)
    with pytest.raises(ValueError, match="floor = 0"):
        inference.collect((0.0, 0.0), 10, rng, floor=0)
    with pytest.raises(ValueError, match="batches = 1"):
        inference.collect((0.0, 0.0), 10, rng, batches=1)
    with pytest.raises(ValueError, match="size = 2"):
        inference.collect((0.0, 0.0), 10, rng, size=2)
