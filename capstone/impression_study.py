"""The study of training on **simulated** impressions: accuracy, calibration, isolation, resuming.

Trained on the log's first days, calibrated on the next, judged on the last, which are never
downsampled. The world knows the true probabilities, so every score stands beside the best possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from capstone.calibration import Calibration, Platt, fit_platt, measure, reliability, save
from capstone.downsampling import corrected_heads
from capstone.impression_batches import ReadingPlan, cached_shard, join, take
from capstone.impression_meter import Trained
from capstone.impression_scores import (
    Floats,
    given_seen,
    isolation_difference,
    oracle,
    predict,
)
from capstone.impression_training import (
    ImpressionJob,
    load_target_ranker,
    train_impressions,
)
from capstone.impressions import ImpressionConfig, Impressions, world_of
from capstone.target_ranker import (
    HEADS,
    TOP,
    SizeName,
    TargetRanker,
    meta_model,
    parameters,
)
from common.errors import require
from labs.lab3_fairness.calibration import ReliabilityCurve

NEW_ITEM_DAYS = 7.0
"""An item that appeared at most this long ago counts as new."""


@dataclass(frozen=True)
class StudySize:
    """How much the study does.

    Attributes
    ----------
    calibration_shards, test_shards
        After the plan's training shards: later days of the same log.
    tail
        Steps before the end at which a second run goes on from the first one's checkpoint, on
        another number of ranks; 0 leaves that out.
    save_every
        Steps between checkpoints: some minutes, so that a save costs a few hundredths of them.
    compile
        The blocks. No scale does so by itself: on two H200 the first step of ``"full"``, whose
        batches have a dozen shapes, had not ended after 90 s; without, a step takes 0.7 s.
    profile
        See ``ImpressionJob``.
    """

    size: SizeName
    plan: ReadingPlan
    calibration_shards: int
    test_shards: int
    learning_rate: float
    tail: int
    precision: str = "fp32"
    save_every: int = 0
    compile: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        used = self.plan.train_shards + self.calibration_shards + self.test_shards
        require(
            used <= self.plan.config.n_shards,
            "shards of training, calibration and test", used,
            f"must be at most n_shards = {self.plan.config.n_shards}",
        )  # fmt: skip


def _plan(
    train_shards: int, lanes: int, steps: int, micro_lists: int, **config: float
) -> ReadingPlan:
    share = config.pop("share")
    settings = ImpressionConfig(**config)  # type: ignore[arg-type]
    fill = (8, 16) if micro_lists else (1, 1)
    return ReadingPlan(settings, train_shards, lanes, steps, share, micro_lists, *fill)


def study_size(scale: str, seed: int = 0) -> StudySize:
    """What each scale does; full needs GPUs, and hours of them for all of its shards."""
    if scale == "smoke":
        plan = _plan(
            4, 2, 8, 0, share=0.2, n_users=2000, n_items=3000, n_impressions=80_000,
            history_length=8, shard_lists=1000, n_days=4, new_items=0.5, seed=seed,
        )  # fmt: skip
        return StudySize("tiny", plan, 2, 2, 1e-2, tail=0)
    if scale == "standard":
        plan = _plan(
            40, 4, 16, 0, share=0.1, n_users=20_000, n_items=3000, n_impressions=614_400,
            history_length=20, shard_lists=1024, n_days=7, new_items=0.3, seed=seed,
        )  # fmt: skip
        return StudySize("small", plan, 8, 12, 3e-3, tail=8, save_every=64, profile=True)
    plan = _plan(
        2400, 16, 128, 96, share=0.1, n_users=10_000_000, n_items=100_000,
        n_impressions=102_400_000, history_length=255, shard_lists=4096, seed=seed,
    )  # fmt: skip
    return StudySize(
        "full", plan, 2, 2, 3e-5,
        tail=8, precision="bf16", save_every=256, profile=True,
    )  # fmt: skip


@dataclass(frozen=True)
class HeadResult:
    """One head on the test days.

    ``raw`` as trained on the kept rows, ``corrected`` for the downsampling, ``final`` after Platt
    too; ``oracle`` are the world's true probabilities.
    """

    auc: float
    oracle_auc: float
    raw: Calibration
    corrected: Calibration
    final: Calibration
    oracle: Calibration
    platt: Platt


@dataclass(frozen=True)
class SliceResult:
    """P(click) on a part of the test rows."""

    name: str
    auc: float
    oracle_auc: float
    calibration: Calibration


@dataclass(frozen=True)
class PositionBias:
    """Odds of a click at each position over those on top, [positions].

    ``logged`` from the click rates, which mix the position with what the policy put there;
    ``learnt`` by the position tower; ``true`` of the same items moved down, by the world's law.
    """

    logged: Floats
    learnt: Floats
    true: Floats


@dataclass(frozen=True)
class ImpressionStudy:
    """Everything the stage records; all of it about **simulated** people.

    Attributes
    ----------
    isolation_difference
        Largest change of any probability between scoring a list together and item by item.
    position : PositionBias
    taste_correlation
        Spearman correlation with the true P(click | seen), by position given to the model:
        ``"served"`` at the top, ``"logged"`` where the row was shown.
    resume_difference
        Largest difference between the losses of the last steps and those of a run that went on
        from the checkpoint, on ``resumed_world`` ranks; None when left out.
    full_parameters
        Of the size "full", counted without memory.
    """

    scale: str
    trained: Trained
    heads: Mapping[str, HeadResult]
    slices: tuple[SliceResult, ...]
    curves: Mapping[str, ReliabilityCurve]
    isolation_difference: float
    position: PositionBias
    taste_correlation: Mapping[str, float]
    resume_difference: float | None
    resumed_world: int
    full_parameters: int
    n_test: int


def study_impressions(
    folder: Path,
    *,
    scale: str,
    procs: int,
    device: str,
    seed: int = 0,
    shards: int = 0,
    compile_blocks: bool = False,
    checkpoints: Path | None = None,
    on_progress: Callable[[int, int, float], None] | None = None,
) -> ImpressionStudy:
    """Train, resume, calibrate and judge; weights and ``calibration.json`` are left in ``folder``.

    Parameters
    ----------
    scale
        ``"smoke"``, ``"standard"`` or ``"full"``.
    procs, device
        Ranks, and ``"cpu"`` or ``"cuda"``.
    shards
        Training shards, where fewer than the scale's are wanted; 0 takes them all.
    compile_blocks
        Whether the blocks are compiled.
    checkpoints
        Where they are kept; the newest there is gone on from. None: in ``folder``.
    on_progress
        See ``train_impressions``.
    """
    size = study_size(scale, seed)
    if shards:
        size = replace(size, plan=replace(size.plan, train_shards=shards))
    return study(
        folder, replace(size, compile=compile_blocks),
        scale=scale, procs=procs, device=device, seed=seed,
        checkpoints=checkpoints, on_progress=on_progress,
    )  # fmt: skip


def study(
    folder: Path,
    what: StudySize,
    *,
    scale: str,
    procs: int,
    device: str,
    seed: int,
    checkpoints: Path | None = None,
    on_progress: Callable[[int, int, float], None] | None = None,
) -> ImpressionStudy:
    """:func:`study_impressions` of a size of one's own."""
    plan = what.plan
    job = ImpressionJob(
        size=what.size, plan=plan, learning_rate=what.learning_rate, device=device, seed=seed,
        output=str(folder / "target_ranker.safetensors"),
        checkpoints=str(checkpoints or folder / "checkpoints"),
        result=str(folder / "trained.json"), precision=what.precision,
        save_every=what.save_every, tail=what.tail, compile=what.compile, profile=what.profile,
    )  # fmt: skip
    trained = train_impressions(job, procs=procs, folder=folder, on_progress=on_progress)
    difference, resumed_world = None, max(1, procs // 2)
    if what.tail:
        difference = resume_difference(job, trained, folder / "resumed", resumed_world)
    model = load_target_ranker(Path(job.output), what.size, plan.vocabulary).to(device)
    first = plan.train_shards
    middle = first + what.calibration_shards
    calibration_rows = _rows(plan.config, range(first, middle))
    test = _rows(plan.config, range(middle, middle + what.test_shards))
    earlier = corrected_heads(predict(model, calibration_rows), plan.share)
    maps = {head: fit_platt(earlier[head], getattr(calibration_rows, head)) for head in HEADS}
    save(folder / "calibration.json", maps)
    raw, truth = predict(model, test), oracle(plan.config, test)
    right = corrected_heads(raw, plan.share)
    final = {head: maps[head].apply(right[head]) for head in HEADS}
    heads = {
        head: _judge(getattr(test, head), raw[head], right[head], truth[head], maps[head])
        for head in HEADS
    }
    seen = given_seen(plan.config, test)["click"]
    return ImpressionStudy(
        scale=scale,
        trained=trained,
        heads=heads,
        slices=_slices(test, final["click"], truth["click"]),
        curves={
            "as trained": reliability(raw["click"], test.click),
            "corrected": reliability(right["click"], test.click),
            "corrected and Platt": reliability(final["click"], test.click),
        },
        isolation_difference=isolation_difference(model, take(test, slice(0, 640))),
        position=_position_bias(test, seen, model, plan.config),
        taste_correlation=_taste_correlation(seen, model, test, raw["click"]),
        resume_difference=difference,
        resumed_world=resumed_world,
        full_parameters=parameters(meta_model("full", study_size("full").plan.vocabulary)),
        n_test=test.n,
    )


def resume_difference(job: ImpressionJob, trained: Trained, folder: Path, procs: int) -> float:
    """Go on from the checkpoint ``tail`` steps before the end; largest difference of the losses."""
    again = replace(
        job, save_every=0, profile=False, output="", result=str(folder / "trained.json")
    )
    resumed = train_impressions(again, procs=procs, folder=folder)
    step = job.plan.steps - job.tail
    require(resumed.first_step == step, "first step", resumed.first_step, f"must be {step}")
    both = (np.asarray(run.losses[-job.tail :]) for run in (resumed, trained))
    return float(np.abs(np.subtract(*both)).max())


def auc(labels: NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def _judge(
    labels: NDArray[np.bool_], raw: Floats, right: Floats, truth: Floats, platt: Platt
) -> HeadResult:
    return HeadResult(
        auc=auc(labels, right),
        oracle_auc=auc(labels, truth),
        raw=measure(raw, labels),
        corrected=measure(right, labels),
        final=measure(platt.apply(right), labels),
        oracle=measure(truth, labels),
        platt=platt,
    )


def _slices(rows: Impressions, scores: Floats, truth: Floats) -> tuple[SliceResult, ...]:
    length = rows.history.shape[1]
    new_user = (rows.history > 0).sum(axis=1) < length
    new_item = rows.age <= NEW_ITEM_DAYS
    parts = {
        f"users with fewer than {length} events": new_user,
        "other users": ~new_user,
        f"items at most {NEW_ITEM_DAYS:g} days old": new_item,
        "older items": ~new_item,
        "position 1": rows.position == 0,
        "positions 2 to 4": (rows.position >= 1) & (rows.position <= 3),
        "positions from 5": rows.position >= 4,
    }
    return tuple(
        SliceResult(
            name,
            auc(rows.click[mask], scores[mask]),
            auc(rows.click[mask], truth[mask]),
            measure(scores[mask], rows.click[mask]),
        )
        for name, mask in parts.items()
        if 0 < rows.click[mask].sum() < mask.sum()
    )


def _taste_correlation(
    seen: Floats, model: TargetRanker, rows: Impressions, logged: Floats
) -> dict[str, float]:
    from scipy.stats import spearmanr

    # What predict(..., at_the_top=True) gives: the position is a logit that is added at the end.
    tower = model.positions.weight.detach().double().cpu().numpy()[:, HEADS.index("click")]
    served = logit(logged) + tower[TOP] - tower[rows.position]
    return {
        name: float(spearmanr(scores, seen).statistic)
        for name, scores in (("served", served), ("logged", logged))
    }


def _position_bias(
    rows: Impressions, seen: Floats, model: TargetRanker, config: ImpressionConfig
) -> PositionBias:
    places = np.arange(config.list_length)
    law = world_of(config).examination(config.list_length)
    rates = [rows.click[rows.position == place].mean() for place in places]
    tower = model.positions.weight.detach().cpu().numpy()[:, 0]
    moved = [logit(seen * law[place]).mean() for place in places]
    return PositionBias(
        *(np.exp(np.asarray(each) - each[0]) for each in (logit(rates), tower, moved))
    )


def _rows(config: ImpressionConfig, shards: range) -> Impressions:
    return join([cached_shard(config, number) for number in shards])
