"""A loss that knows about groups: cross-entropy plus the price of a gap in soft decisions.

A gap is a difference of rates, a rate counts decisions, and a decision is a step: its gradient is
0 wherever it exists. A sigmoid of the logit over a temperature is a decision soft enough to
learn from; cooling it makes the gap that is trained the gap that will be audited. The price is a
multiplier that rises while the gap is too large, so that one asks for "a gap of at most 0.05"
and not for a lambda whose effect nobody can foresee.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from common.errors import InputError, require
from common.exercises import exercise
from labs.lab3_fairness.decisions import Outcome
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
CLIP = 6.0  # standard deviations; a capital gain of 99,999 is 13 of them


@exercise(
    "3.11",
    points=8,
    title="A differentiable gap",
    hint="Which rows does each rate count, and what stands for a decision that a gradient can "
    "pass? Then think of a batch in which one of the groups has no such row.",
)
def soft_gaps(
    logits: Tensor,
    labels: Tensor,
    codes: Tensor,
    *,
    constraint: Constraint,
    temperature: float = 0.1,
) -> Tensor:
    """The gaps between groups in soft decisions, differentiable in the logits.

    The soft decision about row i is ``s_i = sigmoid(logit_i / temperature)``. A rate of a group
    is the mean of ``s`` over the rows of the group that it counts; a gap is the largest rate
    minus the smallest, over the groups that have such rows in this batch.

    Parameters
    ----------
    logits : float tensor of shape [b]
        A positive decision is a logit above 0.
    labels : tensor of shape [b]
        0 or 1.
    codes : int tensor of shape [b]
        The group of each row.
    constraint
        ``dp``: one gap, over all rows. ``eo``: two, over the rows with label 0 (false positive
        rate) and over those with label 1 (true positive rate).
    temperature
        Above 0. Near 0 the soft decision is the decision, and its gradient vanishes.

    Returns
    -------
    float tensor of shape [1] or [2]
        From 0 to 1. NaN, without a gradient, where fewer than two groups have rows that count:
        a batch that cannot compare says nothing, and above all not "no gap".
    """
    decisions = torch.sigmoid(logits / temperature)
    everybody = torch.ones_like(labels, dtype=torch.bool)
    counted = [labels == 0, labels == 1] if constraint == "eo" else [everybody]
    gaps = []
    for rows in counted:
        members = [rows & (codes == code) for code in codes[rows].unique()]
        rates = [decisions[group].mean() for group in members]
        if len(rates) >= 2:
            gaps.append(torch.stack(rates).max() - torch.stack(rates).min())
        else:
            gaps.append(logits.new_full((), float("nan")))
    return torch.stack(gaps)


def augmented_penalty(gaps: Tensor, multipliers: Tensor, *, target: float, mu: float) -> Tensor:
    """The price of gaps above the target; gaps that are NaN cost nothing.

    ``sum_k (max(0, lambda_k + mu g_k)^2 - lambda_k^2) / (2 mu)`` with ``g_k = gap_k - target``.
    Its slope in a gap is ``max(0, lambda_k + mu g_k)``: 0 well below the target, and at the
    target exactly lambda.

    References
    ----------
    Nocedal and Wright: Numerical Optimization, 2006, section 17.4 (inequality constraints).
    """
    known = ~gaps.isnan()
    slope = torch.relu(multipliers[known] + mu * (gaps[known] - target))
    return ((slope**2 - multipliers[known] ** 2) / (2 * mu)).sum()


def raised_multipliers(gaps: Tensor, multipliers: Tensor, *, target: float, mu: float) -> Tensor:
    """``max(0, lambda + mu (gap - target))``; where the gap is NaN lambda stays."""
    raised = torch.relu(multipliers + mu * (gaps.detach() - target))
    return torch.where(gaps.isnan(), multipliers, raised)


@dataclass(frozen=True)
class Training:
    """How the network is trained.

    Attributes
    ----------
    constraint
        ``dp``, ``eo``, or None for cross-entropy alone.
    target
        The largest gap asked for.
    hidden
        Width of the one hidden layer.
    steps
        Of Adam, its learning rate falling along a cosine from ``learning_rate`` to 0.
    batch
        Rows of a step, drawn anew each time; None takes all rows. See :func:`gap_by_batch`.
    hot, cold
        Temperature at the start, and from the middle of training on; geometric between.
    mu
        Weight of the quadratic term, and step of the multipliers.
    raise_every
        Steps between two updates of the multipliers.
    device
        Of torch: ``cpu``, ``cuda``.
    """

    constraint: Constraint | None = "dp"
    target: float = 0.05
    hidden: int = 32
    steps: int = 200
    batch: int | None = None
    learning_rate: float = 0.02
    hot: float = 0.3
    cold: float = 0.05
    mu: float = 20.0
    raise_every: int = 10
    device: str = "cpu"

    def __post_init__(self) -> None:
        known = (None, "dp", "eo")
        require(self.constraint in known, "constraint", self.constraint, f"must be one of {known}")
        require(0 <= self.target < 1, "target", self.target, "must be from 0 to 1", "try 0.05")
        require(self.steps >= 1, "steps", self.steps, "must be >= 1", "try 200")
        require(self.batch is None or self.batch >= 2, "batch", self.batch, "must be >= 2")
        require(0 < self.cold <= self.hot, "cold", self.cold, f"must be above 0, up to {self.hot}")
        require(self.mu > 0, "mu", self.mu, "must be > 0", "try 20.0")
        require(self.hidden >= 1, "hidden", self.hidden, "must be >= 1", "try 32")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be > 0")
        require(self.raise_every >= 1, "raise_every", self.raise_every, "must be >= 1", "try 10")

    def temperature(self, step: int) -> float:
        """Of the soft decisions at a step."""
        return float(self.hot * (self.cold / self.hot) ** min(1.0, 2 * step / self.steps))


@dataclass(frozen=True)
class FairNetwork:
    """A trained network, and what happened on the way.

    ``gaps`` and ``multipliers``, float64 arrays of shape [steps, 1 or 2], are the soft gaps of
    each step's batch and the multipliers that priced them; [steps, 0] without a constraint.
    """

    network: nn.Module
    losses: NDArray[np.float64]
    gaps: NDArray[np.float64]
    multipliers: NDArray[np.float64]

    def logits(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n]; above 0 is the positive decision."""
        return logits_of(self.network, columns)


def fit_fair_network(
    columns: NDArray[np.float64],
    labels: NDArray[np.int64],
    codes: NDArray[np.intp],
    training: Training,
    *,
    seed: int = 0,
) -> FairNetwork:
    """Train a small network on cross-entropy plus the price of its gaps.

    Parameters
    ----------
    columns : float array of shape [n, p]
        About standardised; the group need not be among them, and is not needed afterwards.
    labels : int array of shape [n]
        0 or 1.
    codes : int array of shape [n]
        The group of each row, 0 or more.
    training
        Constraint, target and optimiser.
    seed
        Of the initial weights and the batches.

    Raises
    ------
    InputError
        As :func:`labs.lab3_fairness.mitigation.checked_rows`, with a constraint for fewer than
        two groups as well; and for a column that is not finite.
    """
    least = 1 if training.constraint is None else 2
    labels = checked_rows(columns, labels, codes, least_groups=least)
    generator = torch.Generator().manual_seed(seed)
    network = small_network(columns.shape[1], training.hidden, generator).to(training.device)
    x = as_tensor(columns, training.device)
    y = torch.tensor(labels, device=training.device)
    a = torch.tensor(codes, device=training.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    n_gaps = {None: 0, "dp": 1, "eo": 2}[training.constraint]
    multipliers = torch.zeros(n_gaps, device=training.device)
    price = {"target": training.target, "mu": training.mu}
    losses: list[float] = []
    gap_path: list[list[float]] = []
    multiplier_path: list[list[float]] = []
    for step in range(training.steps):
        rows: Tensor | slice = slice(None)
        if training.batch is not None:
            drawn = torch.randint(len(labels), (training.batch,), generator=generator)
            rows = drawn.to(training.device)
        logits = network(x[rows]).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, y[rows].float())
        losses.append(loss.item())
        multiplier_path.append(multipliers.tolist())
        if training.constraint is None:
            gap_path.append([])
        else:
            gaps = soft_gaps(
                logits,
                y[rows],
                a[rows],
                constraint=training.constraint,
                temperature=training.temperature(step),
            )
            loss = loss + augmented_penalty(gaps, multipliers, **price)
            gap_path.append(gaps.tolist())
            if (step + 1) % training.raise_every == 0:
                multipliers = raised_multipliers(gaps, multipliers, **price)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return FairNetwork(network, *(np.array(path) for path in (losses, gap_path, multiplier_path)))


def small_network(
    n_columns: int, hidden: int, generator: torch.Generator, n_logits: int = 1
) -> nn.Sequential:
    """One hidden layer and the logits, initialised from ``generator`` and nothing else."""
    # nn.Linear would draw weights from the global generator first, and move it.
    linear = [nn.utils.skip_init(nn.Linear, *s) for s in ((n_columns, hidden), (hidden, n_logits))]
    for layer in linear:
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(linear[0], nn.ReLU(), linear[1])


def logits_of(network: nn.Module, columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outputs of a network with one of them, [n], for columns of shape [n, p]."""
    device = next(network.parameters()).device
    with torch.no_grad():
        out: Tensor = network(as_tensor(columns, str(device))).squeeze(1)
    return np.asarray(out.cpu().numpy(), dtype=np.float64)


def as_tensor(columns: NDArray[np.float64], device: str) -> Tensor:
    """float32 on the device, clipped to ``CLIP``: one outlier would own the gradient.

    InputError for a value that is not finite: its logit would be NaN, and no positive decision.
    """
    unknown = ~np.isfinite(columns)
    if unknown.any():
        row, column = (int(i) for i in np.argwhere(unknown)[0])
        raise InputError(
            f"columns[{row}, {column}] = {columns[row, column]} is not finite; impute it, or leave "
            "the row out"
        )
    clipped = np.clip(columns, -CLIP, CLIP)
    return torch.as_tensor(clipped, dtype=torch.float32, device=device)


def fair_network(train: Task, test: Task, *, seed: int, name: str, training: Training) -> Mitigated:
    """The decisions of a network trained with the fair loss; the groups are for training only."""
    train, test = prepared(train, test)
    codes, _ = check_task(train)

    def decide() -> ArrayLike:
        x, x_test = design_matrices(train, test)
        return fit_fair_network(x, train.labels, codes, training, seed=seed).logits(x_test) > 0

    return timed(name, "none" if training.constraint is None else "in", decide)


@dataclass(frozen=True)
class TargetPoint:
    """What training asked for, and what came of it on the test rows."""

    target: float
    outcome: Outcome


def target_path(
    train: Task, test: Task, targets: Sequence[float], training: Training, *, seed: int = 0
) -> list[TargetPoint]:
    """Train once for each target gap; ``training`` says everything else."""
    points = []
    for target in targets:
        asked = replace(training, target=target)
        done = fair_network(train, test, seed=seed, name=f"target {target}", training=asked)
        points.append(TargetPoint(target, done.outcome(test, seed=seed)))
    return points


@dataclass(frozen=True)
class BatchGap:
    """What batches of a size say about a gap.

    ``mean`` is the mean estimate over the batches that could compare, ``undefined`` the share
    of batches that could not.
    """

    batch: int
    mean: float
    undefined: float


def gap_by_batch(
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    codes: NDArray[np.intp],
    sizes: Sequence[int],
    *,
    constraint: Constraint,
    which: int = 0,
    draws: int = 200,
    seed: int = 0,
) -> list[BatchGap]:
    """The gap of a fixed model as batches of each size estimate it.

    A gap is an absolute difference, so noise only adds to it: ``E|g + noise| >= |g|``. A loss on
    small batches fights the noise as well as the gap, and the cheapest way to have no noise is
    to decide alike about everybody.

    Parameters
    ----------
    which
        The entry of :func:`soft_gaps`: with ``eo`` 0 is of the false positive rate, 1 of the
        true positive rate.
    draws
        Batches of each size.
    """
    rng = np.random.default_rng(seed)
    z, y, a = (torch.tensor(values) for values in (logits, labels, codes))
    out = []
    for size in sizes:
        gaps = np.empty(draws)
        for draw in range(draws):
            rows = torch.as_tensor(rng.integers(len(logits), size=size))
            gaps[draw] = float(soft_gaps(z[rows], y[rows], a[rows], constraint=constraint)[which])
        known = gaps[~np.isnan(gaps)]
        mean = float(known.mean()) if known.size else float("nan")
        out.append(BatchGap(size, mean, 1 - known.size / draws))
    return out


METHODS: dict[str, Method] = {
    name: partial(fair_network, name=name, training=training)
    for name, training in (
        ("network", Training(constraint=None)),
        ("fair_loss_dp", Training(constraint="dp", target=0.05)),
        ("fair_loss_dp_strict", Training(constraint="dp", target=0.02)),
        ("fair_loss_eo", Training(constraint="eo", target=0.03)),
    )
}
