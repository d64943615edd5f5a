"""Training against an adversary who reads the group off the predictions.

A predictor and an adversary are trained together. The adversary sees the predictor's logit (and,
for equalized odds, the label) and guesses the group; the predictor is to predict well and to
leave the adversary nothing. A rate is nowhere mentioned: equal rates are what follows if the
adversary is at chance, strong enough, and trained to its optimum, and none of these is certain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from fairlearn.adversarial import AdversarialFairnessClassifier
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from common.errors import RunError, require
from labs.lab3_fairness.fair_loss import CLIP, as_tensor, logits_of, small_network
from labs.lab3_fairness.mitigation import (
    Method,
    Mitigated,
    check_task,
    checked_rows,
    design_matrices,
    prepared,
    timed,
)
from labs.lab3_fairness.tabular import Task

Constraint = Literal["dp", "eo"]
Gradient = tuple[Tensor, ...]


def against_the_adversary(predictor: Gradient, adversary: Gradient, alpha: float) -> Gradient:
    """The predictor's step: its own gradient, less what would help the adversary.

    ``g - proj_h(g) - alpha h`` with g the gradient of the prediction's loss and h that of the
    adversary's loss, both with respect to all weights of the predictor *as one vector*.

    References
    ----------
    Zhang, Lemoine, Mitchell: Mitigating Unwanted Biases with Adversarial Learning, AIES 2018,
    equation 1.
    """
    dot = sum((g * h).sum() for g, h in zip(predictor, adversary))
    norm = sum((h * h).sum() for h in adversary)
    share = dot / torch.clamp(torch.as_tensor(norm), min=1e-12)
    return tuple(g - share * h - alpha * h for g, h in zip(predictor, adversary))


def without_projection(predictor: Gradient, adversary: Gradient, alpha: float) -> Gradient:
    """``g - alpha h``, as gradient reversal has it: what g does for the adversary may be more
    than ``alpha h`` takes away."""
    return tuple(g - alpha * h for g, h in zip(predictor, adversary))


def summed_inner_products(predictor: Gradient, adversary: Gradient, alpha: float) -> Gradient:
    """The step of fairlearn 0.15's torch backend, a projection for each weight of its own.

    ``sum(inner(u, g))`` adds up the products of *every* row of u with *every* row of g. For a
    vector that is the inner product; for a matrix of several rows it is not.
    """
    steps = []
    for g, h in zip(predictor, adversary):
        unit = h / (torch.linalg.vector_norm(h) + torch.finfo(torch.float64).tiny)
        steps.append(g - torch.sum(torch.inner(unit, g)) * unit - alpha * h)
    return tuple(steps)


@dataclass(frozen=True)
class Duel:
    """How predictor and adversary are trained.

    Attributes
    ----------
    constraint
        ``dp``: the adversary sees the logit. ``eo``: the logit and the label.
    alpha
        How hard the predictor works against the adversary; 0 only stops it from helping.
    epochs, batch
        Passes over the rows, in shuffled batches.
    predictor_rate, adversary_rate
        Learning rates of Adam. The adversary is the faster one: a predictor that outruns it is
        praised for fooling a beginner.
    hidden, adversary_hidden
        Width of each network's hidden layer.
    step
        The predictor's step from both gradients and alpha.
    device
        Of torch.
    """

    constraint: Constraint = "dp"
    alpha: float = 0.3
    epochs: int = 10
    batch: int = 512
    predictor_rate: float = 0.005
    adversary_rate: float = 0.02
    hidden: int = 32
    adversary_hidden: int = 8
    step: Callable[[Gradient, Gradient, float], Gradient] = against_the_adversary
    device: str = "cpu"

    def __post_init__(self) -> None:
        require(self.constraint in ("dp", "eo"), "constraint", self.constraint, "must be dp or eo")
        require(self.alpha >= 0, "alpha", self.alpha, "must be >= 0", "try 0.3")
        require(self.epochs >= 1, "epochs", self.epochs, "must be >= 1", "try 10")
        require(self.batch >= 2, "batch", self.batch, "must be >= 2", "try 512")


def what_the_adversary_sees(logits: Tensor, labels: Tensor, constraint: Constraint) -> Tensor:
    """[b, 1] or [b, 3]: the logit; for equalized odds also the label, and their product.

    Whoever knows the label can only use what the logit adds to it: the group's share among
    people of the same label.
    """
    z, y = logits[:, None], labels[:, None].float()
    return z if constraint == "dp" else torch.cat([z, z * y, y], dim=1)


@dataclass(frozen=True)
class DuelResult:
    """The predictor, and the adversary's loss at each step.

    ``entropy`` is the loss of an adversary that only knows how large the groups are (and, for
    equalized odds, among people of each label): one who has nothing to go on. float64 [steps].
    """

    predictor: nn.Module
    adversary_losses: NDArray[np.float64]
    entropy: float

    def logits(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n]; above 0 is the positive decision."""
        return logits_of(self.predictor, columns)


def fit_duel(
    columns: NDArray[np.float64],
    labels: NDArray[np.int64],
    codes: NDArray[np.intp],
    duel: Duel,
    *,
    seed: int = 0,
) -> DuelResult:
    """Train predictor and adversary by Zhang's rule.

    Parameters
    ----------
    columns : float array of shape [n, p]
        About standardised.
    labels, codes : int arrays of shape [n]
        Label and group of each row.
    seed
        Of both networks and the order of the rows.

    Raises
    ------
    InputError
        As :func:`labs.lab3_fairness.mitigation.checked_rows`, for fewer than two groups as well.
    """
    labels = checked_rows(columns, labels, codes, least_groups=2)
    generator = torch.Generator().manual_seed(seed)
    n_groups = int(codes.max()) + 1
    seen_columns = {"dp": 1, "eo": 3}[duel.constraint]
    predictor = small_network(columns.shape[1], duel.hidden, generator).to(duel.device)
    adversary = small_network(seen_columns, duel.adversary_hidden, generator, n_groups)
    adversary = adversary.to(duel.device)
    optimizers = (
        torch.optim.Adam(predictor.parameters(), lr=duel.predictor_rate),
        torch.optim.Adam(adversary.parameters(), lr=duel.adversary_rate),
    )
    x = as_tensor(columns, duel.device)
    y = torch.tensor(labels, device=duel.device)
    a = torch.tensor(codes, device=duel.device)
    batches = -(-len(labels) // duel.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[0], duel.epochs * batches)
    losses = []
    for _ in range(duel.epochs):
        order = torch.randperm(len(labels), generator=generator).to(duel.device)
        for rows in order.split(duel.batch):
            logits = predictor(x[rows]).squeeze(1)
            own = nn.functional.binary_cross_entropy_with_logits(logits, y[rows].float())
            guess = adversary(what_the_adversary_sees(logits, y[rows], duel.constraint))
            theirs = nn.functional.cross_entropy(guess, a[rows])
            weights = tuple(predictor.parameters())
            g = torch.autograd.grad(own, weights, retain_graph=True)
            h = torch.autograd.grad(theirs, weights, retain_graph=True)
            for weight, gradient in zip(weights, duel.step(g, h, duel.alpha)):
                weight.grad = gradient
            mine = tuple(adversary.parameters())
            for weight, gradient in zip(mine, torch.autograd.grad(theirs, mine)):
                weight.grad = gradient
            for optimizer in optimizers:
                optimizer.step()
            schedule.step()
            losses.append(theirs.item())
    return DuelResult(predictor, np.array(losses), _entropy(labels, codes, duel.constraint))


def _entropy(labels: NDArray[np.int64], codes: NDArray[np.intp], constraint: Constraint) -> float:
    """H(A), or H(A | Y) for equalized odds, in nats."""
    counts = np.zeros((2, int(codes.max()) + 1))
    np.add.at(counts, (labels if constraint == "eo" else np.zeros_like(labels), codes), 1)
    counts = counts[counts.sum(axis=1) > 0]
    shares = counts / counts.sum(axis=1, keepdims=True)
    terms = np.where(counts > 0, counts * np.log(np.where(shares > 0, shares, 1)), 0.0)
    return float(-terms.sum() / counts.sum())


def adversarial(train: Task, test: Task, *, seed: int, name: str, duel: Duel) -> Mitigated:
    """Decisions of a predictor trained by :func:`fit_duel`; groups are for training only."""
    train, test = prepared(train, test)
    codes, _ = check_task(train)

    def decide() -> ArrayLike:
        x, x_test = design_matrices(train, test)
        return fit_duel(x, train.labels, codes, duel, seed=seed).logits(x_test) > 0

    return timed(name, "in", decide)


def fairlearn_adversarial(
    train: Task, test: Task, *, seed: int, name: str, duel: Duel
) -> Mitigated:
    """fairlearn's ``AdversarialFairnessClassifier`` on torch, with networks made here.

    Three things to know of version 0.15. ``random_state`` does not reach torch: the backend seeds
    it with ``int(u)`` for a u between 0 and 1, which is 0 whatever the state, and torch's
    global generator with it. So the networks are initialised here, the rows shuffled here, and
    the global generator is put back. And its projection is :func:`summed_inner_products`, which
    divides by ``norm + 1e-308``: in float32 that is 0 / 0 for a weight without a gradient, such as
    behind an adversary whose ReLUs are all dead. Weights became NaN in one run, for which that is
    the likely cause; hence the leaky ones here.

    Raises
    ------
    RunError
        When its weights became NaN all the same.
    """
    train, test = prepared(train, test)
    codes, groups = check_task(train)
    require(len(groups) == 2, "groups", len(groups), "must be two: one logit for the adversary")

    def decide() -> ArrayLike:
        x, x_test = (np.clip(m, -CLIP, CLIP) for m in design_matrices(train, test))
        model = fairlearn_model(x.shape[1], duel, seed)
        order = np.random.default_rng(seed).permutation(len(codes))
        with torch.random.fork_rng(devices=[]):
            try:
                model.fit(x[order], train.labels[order], sensitive_features=codes[order])
            except RuntimeError as error:
                raise RunError(
                    f"{name} with seed {seed} diverged ({error}); try another seed or a smaller "
                    f"alpha than {duel.alpha}"
                ) from error
        return np.asarray(model.predict(x_test)).ravel()

    return timed(name, "in", decide)


def fairlearn_model(n_columns: int, duel: Duel, seed: int) -> AdversarialFairnessClassifier:
    """Unfitted; its networks end in a sigmoid, for its losses take probabilities."""
    generator = torch.Generator().manual_seed(seed)
    seen = {"dp": 1, "eo": 2}[duel.constraint]
    predictor = small_network(n_columns, duel.hidden, generator).append(nn.Sigmoid())
    adversary = small_network(seen, duel.adversary_hidden, generator).append(nn.Sigmoid())
    adversary[1] = nn.LeakyReLU()
    return AdversarialFairnessClassifier(
        backend="torch",
        predictor_model=predictor,
        adversary_model=adversary,
        constraints={"dp": "demographic_parity", "eo": "equalized_odds"}[duel.constraint],
        learning_rate=duel.predictor_rate,
        alpha=duel.alpha,
        epochs=duel.epochs,
        batch_size=duel.batch,
        shuffle=True,
        random_state=seed,
    )


FAIRLEARN = Duel("dp", alpha=1.0, predictor_rate=0.001, batch=256)  # its default rate and alpha

METHODS: dict[str, Method] = {
    name: partial(method, name=name, duel=duel)
    for name, method, duel in (
        ("adversarial_dp", adversarial, Duel("dp")),
        ("adversarial_eo", adversarial, Duel("eo")),
        ("fairlearn_adversarial_dp", fairlearn_adversarial, FAIRLEARN),
    )
}
