"""Training on simulated impressions: every row once, on any number of ranks, killed or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capstone.impression_batches import ReadingPlan, even_ends, join, pack, reacted, take
from capstone.impression_meter import Trained
from capstone.impression_prefetch import Prefetch
from capstone.impression_training import ImpressionJob, compile_blocks, impression_loss
from capstone.impressions import ImpressionConfig, Impressions
from capstone.target_ranker import LOGITS, SIZES, TargetRanker, labels_of, probabilities
from common.errors import InputError
from tests.lab1_fsdp_advanced.conftest import start

CONFIG = ImpressionConfig(
    n_users=1000, n_items=1700, n_impressions=24 * 8 * 5, history_length=6, list_length=5,
    shard_lists=8,
)  # fmt: skip
PLAN = ReadingPlan(CONFIG, train_shards=24, lanes=4, steps_per_shard=2, share=0.5)
quick = settings(derandomize=True, deadline=None, max_examples=20)


def made_up(config: ImpressionConfig, number: int) -> Impressions:
    """A shard in the form of the simulated log without its world: fast, and a pure function."""
    rng = np.random.default_rng([config.seed, number])
    lists, k, length = config.shard_lists, config.list_length, config.history_length
    n = lists * k
    history = rng.integers(1, config.n_items + 1, (lists, length))
    known = np.arange(length) >= rng.integers(0, length + 1, (lists, 1))
    item = rng.integers(1, config.n_items + 1, n)
    click = rng.random(n) < np.where(item % 3 == 0, 0.5, 0.05)
    return Impressions(
        user=np.repeat(rng.integers(0, config.n_users, lists), k).astype(np.int32),
        history=np.repeat(history * known, k, axis=0).astype(np.int32),
        reaction=np.repeat(rng.integers(1, 5, (lists, length)) * known, k, axis=0).astype(np.int8),
        item=item.astype(np.int32),
        position=np.tile(np.arange(k, dtype=np.int8), lists),
        day=np.zeros(n, np.int16),
        hour=np.zeros(n, np.int8),
        creator=(item % 120 + 1).astype(np.int16),
        age=rng.random(n).astype(np.float32) * 400,
        propensity=np.ones(n, np.float32),
        click=click,
        long_view=click & (rng.random(n) < 0.5),
        hide=~click & (rng.random(n) < 0.02),
        share=np.zeros(n, dtype=bool),
    )


@pytest.fixture(autouse=True)
def _fast_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capstone.impression_batches.cached_shard", made_up)


def rows_read(plan: ReadingPlan, steps: range, world: int) -> list[int]:
    """Ids of the rows that all ranks together read in these steps."""
    return [
        int(row)
        for step in steps
        for rank in range(world)
        for number, rows in plan.pieces(step, rank, world)
        for row in plan.row_ids(number, rows)
    ]


@quick
@given(st.integers(0, PLAN.steps), st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 2, 3, 4]))
def test_every_impression_is_read_once_also_when_the_number_of_ranks_changes(
    stopped_at: int, before: int, after: int
) -> None:
    """Rows that are read twice or never would be silent: the loss looks like any other."""
    first = rows_read(PLAN, range(stopped_at), before)
    rest = rows_read(PLAN, range(stopped_at, PLAN.steps), after)
    assert sorted(first + rest) == list(range(CONFIG.n_impressions))


@quick
@given(
    st.integers(0, PLAN.steps - 1), st.sampled_from([1, 2, 3, 4]), st.sampled_from([0, 1, 3, 50]),
    st.sampled_from([1, 4]),
)  # fmt: skip
def test_the_ranks_losses_add_up_to_that_of_one_process(
    step: int, world: int, micro: int, fill: int
) -> None:
    """The loss of a step is the same sum over rows, whoever holds them and in how many batches.

    Training averages the micro-batches of a rank, and then the ranks.
    """
    torch.manual_seed(0)
    model = TargetRanker(SIZES["tiny"], PLAN.vocabulary)
    model.init_weights(0, PLAN.usual_rates())
    (batch,) = PLAN.batches(step, 0, 1)
    whole = impression_loss(model, batch)
    plan = replace(PLAN, micro_lists=micro, lists_multiple=fill, tokens_multiple=2 * fill)
    ranks = [plan.batches(step, rank, world) for rank in range(world)]
    shapes = {batch.shape for batches in ranks for batch in batches}
    assert all(lists % fill == 0 and tokens % (2 * fill) == 0 for lists, tokens in shapes), shapes
    assert {len(batches) for batches in ranks} == {plan.micro_batches(world)}
    parts = [
        torch.stack([impression_loss(model, batch) for batch in batches]).mean()
        for batches in ranks
    ]
    mean = float(torch.stack(parts).mean().detach())
    assert mean == pytest.approx(float(whole.detach()), rel=1e-5)


@quick
@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 6))
def test_no_other_cut_has_a_smaller_largest_batch(lengths: list[int], count: int) -> None:
    """The largest batch decides how much memory a step needs."""
    ordered = np.sort(np.array(lengths, dtype=np.int64))[::-1]

    def largest(ends: list[int]) -> int:
        parts = np.split(ordered, ends)
        return max((int(part[0]) * len(part) for part in parts if len(part)), default=0)

    ends = even_ends(ordered, count)
    assert len(ends) == count - 1
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = sorted(rng.integers(0, len(lengths) + 1, count - 1).tolist())
        assert largest(ends) <= largest(other), (lengths, ends, other)


def test_a_batch_is_as_long_as_its_longest_history() -> None:
    """Half of what a user could have done is padding: nobody should pay for it."""
    (batch,) = PLAN.batches(0, 0, 1)
    assert (batch.requests.history[:, 0] > 0).any(), "some list fills it"
    cut = replace(PLAN, micro_lists=2).batches(0, 0, 1)
    assert sum(np.prod(part.shape) for part in cut) < 0.95 * np.prod(batch.shape)
    assert sum(part.real_tokens for part in cut) == batch.real_tokens


@pytest.mark.parametrize("world", [1, 2])
def test_what_is_made_ahead_is_what_the_plan_says(world: int) -> None:
    """A thread that mixed up steps would train on other rows than the plan, in silence."""
    with Prefetch(PLAN, rank=0, world=world, last=PLAN.steps) as ahead:
        for step in range(3, PLAN.steps):
            (found,), (wanted,) = ahead.batches(step), PLAN.batches(step, 0, world)
            assert torch.equal(found.requests.candidates, wanted.requests.candidates), step
            assert torch.equal(found.labels, wanted.labels), step
    assert len(ahead.waited) == PLAN.steps - 3


def test_a_failure_while_reading_ahead_reaches_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error that stays in a thread would leave the step waiting for ever."""

    def broken(config: ImpressionConfig, number: int) -> Impressions:
        raise InputError(f"shard {number} cannot be drawn")

    with Prefetch(PLAN, rank=0, world=1, last=PLAN.steps) as ahead:
        ahead.batches(0)
        monkeypatch.setattr("capstone.impression_batches.cached_shard", broken)
        with pytest.raises(InputError, match="cannot be drawn"):
            for step in range(1, PLAN.steps):
                ahead.batches(step)


def test_packing_lists_gives_every_kept_row_the_logits_it_has_alone() -> None:
    """Candidates of one list share its history: exact, because they are isolated."""
    rows = made_up(CONFIG, 3)
    mask = np.random.default_rng(0).random(rows.n) < 0.4
    torch.manual_seed(0)
    model = TargetRanker(SIZES["tiny"], PLAN.vocabulary).eval()
    requests, labels, weight = pack(rows, mask, lists_multiple=8, tokens_multiple=16)
    assert (len(weight) % 8, (requests.history.shape[1] + weight.shape[1]) % 16) == (0, 0)
    real = weight.numpy() > 0
    packed = probabilities(model, requests)["click"][real]
    alone = []
    for row in np.flatnonzero(mask):
        on_top = replace(take(rows, np.array([row])), position=np.zeros(1, np.int8))
        one, _, _ = pack(on_top, np.array([True]))
        shown = torch.tensor([[int(rows.position[row])]])
        alone.append(probabilities(model, replace(one, positions=shown))["click"][0, 0])
    np.testing.assert_allclose(packed, alone, atol=1e-6)
    assert labels.numpy()[real].tolist() == labels_of(vars(rows))[mask].tolist()
    assert weight.sum() == mask.sum()


def test_training_keeps_every_reaction_and_a_share_of_the_rest() -> None:
    rows, mask = PLAN.read(0, 0, 1)
    positive = reacted(rows)
    assert mask[positive].all()
    assert 0.3 < mask[~positive].mean() < 0.7
    assert PLAN.usual_rows() == pytest.approx(mask.sum(), rel=0.3)


def test_joining_and_taking_are_inverse() -> None:
    parts = [made_up(CONFIG, number) for number in range(2)]
    whole = join(parts)
    again = take(whole, slice(parts[0].n, whole.n))
    assert (again.history == parts[1].history).all()


def test_more_ranks_than_lanes_are_refused() -> None:
    """A rank without rows would leave the others waiting in a collective."""
    with pytest.raises(InputError, match="at most lanes = 4"):
        PLAN.pieces(0, 0, 5)


@pytest.mark.parametrize("bad", [{"train_shards": 99}, {"steps_per_shard": 3}, {"share": 0.0}])
def test_a_plan_that_cannot_be_read_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError):
        replace(PLAN, **bad)  # type: ignore[arg-type]


def job(folder: Path, name: str, **fields: object) -> ImpressionJob:
    made = ImpressionJob(
        "tiny", PLAN, 1e-2, "cpu", 0, str(folder / f"{name}.safetensors"), str(folder / name),
        str(folder / f"{name}.json"), save_every=5, tail=2,
    )  # fmt: skip
    return replace(made, **fields)  # type: ignore[arg-type]


def test_a_job_survives_being_written_and_read(tmp_path: Path) -> None:
    given_ = job(tmp_path, "a", checkpointing="full")
    assert ImpressionJob.read(given_.write(tmp_path / "job.json")) == given_


def test_the_last_checkpoint_is_the_one_that_the_check_goes_on_from(tmp_path: Path) -> None:
    """12 steps: every fifth, then the tenth for the tail of two; the end has the weights."""

    def saved(**fields: object) -> list[int]:
        made = job(tmp_path, "a", **fields)
        return [done for done in range(1, PLAN.steps + 1) if made.saves_after(done)]

    assert saved() == [5, 10]
    assert saved(tail=3) == [5, 9]
    assert saved(tail=0) == [5, 10]
    assert saved(tail=2, save_every=100) == [10]
    assert saved(save_every=0) == []
    assert saved(stop_at=7) == [5, 7, 10]


def train_all(ranks, *paths):  # type: ignore[no-untyped-def]
    """Train each job; a path that begins with ``kill:`` dies by SIGKILL in its twelfth step."""
    import os
    from pathlib import Path

    from capstone import impression_batches, impression_training
    from labs.lab1_fsdp_advanced.throughput import Peak
    from tests.capstone.test_impression_training import made_up

    loss, left = impression_training.impression_loss, []

    def dies(model, batch):  # type: ignore[no-untyped-def]
        if left:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), 9)
        return loss(model, batch)

    impression_batches.cached_shard = made_up
    impression_training.impression_loss = dies
    impression_training.peak_of = lambda *_: Peak(1e12, "not measured")
    for path in paths:
        if path.startswith("kill:"):
            left.append(12)
        job = impression_training.ImpressionJob.read(Path(path.removeprefix("kill:")))
        impression_training.train_on(ranks, job)
    return {"done": True}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, server: Path | None) -> Path:
    """One run without a stop; one killed in its last step, then resumed on 2 ranks and on 1."""
    import shutil

    folder = tmp_path_factory.mktemp("jobs")
    (folder / "scripts").mkdir()

    def run(procs: int, *names: str) -> None:
        start(
            train_all, folder / "scripts", server=server, procs=procs,
            arguments=tuple(names), timeout=120,
        )  # fmt: skip

    def path(name: str, **fields: object) -> str:
        return str(job(folder, name, **fields).write(folder / f"{name}.job.json"))

    run(
        2, path("whole", profile=True), path("replicated", strategy="NO_SHARD", save_every=0),
        "kill:" + path("killed"),
    )  # fmt: skip
    assert not (folder / "killed.safetensors").exists()
    shutil.copytree(folder / "killed", folder / "alone")
    run(2, path("killed"))
    run(1, path("alone"))
    return folder


def measured(folder: Path, name: str) -> Trained:
    return Trained.read(folder / f"{name}.json")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "world"), [("killed", 2), ("alone", 1)])
def test_a_killed_run_goes_on_to_the_same_weights(trained: Path, name: str, world: int) -> None:
    """After SIGKILL, on as many ranks or fewer: the same losses and weights to 1e-6."""
    from safetensors.torch import load_file

    whole, resumed = measured(trained, "whole"), measured(trained, name)
    # The checkpoint of step 10 counts once it is written, which may take longer than a step.
    assert (resumed.first_step in (5, 10), resumed.world) == (True, world), resumed.first_step
    assert len(resumed.losses) == len(whole.losses) == PLAN.steps
    np.testing.assert_allclose(resumed.losses, whole.losses, atol=1e-5)
    first, second = (load_file(trained / f"{each}.safetensors") for each in ("whole", name))
    worst = max(float((first[key] - second[key]).abs().max()) for key in first)
    # AdamW divides by the size of the gradient, and so enlarges the rounding of small ones.
    assert worst <= (1e-6 if world == 2 else 1e-4), f"weights differ by {worst:g}"


@pytest.mark.slow
def test_the_strategy_changes_no_number(trained: Path) -> None:
    """Sharded or whole, the losses agree: FSDP moves numbers, it does not change them."""
    losses = [measured(trained, name).losses for name in ("whole", "replicated")]
    np.testing.assert_allclose(*losses, atol=1e-5)


@pytest.mark.slow
def test_blocks_share_few_compilations_and_change_no_loss() -> None:
    """Two blocks and batches of many shapes; at full scale each compilation costs a minute.

    The backend stops before code is generated, which takes most of the time.
    """
    from torch._dynamo.utils import counters

    models = []
    for _ in range(2):
        models.append(TargetRanker(SIZES["small"], PLAN.vocabulary))
        models[-1].init_weights(0, PLAN.usual_rates())
    compile_blocks(list(models[1].blocks), backend="aot_eager")
    counters.clear()
    plan, shapes = replace(PLAN, micro_lists=3, lists_multiple=2, tokens_multiple=4), set()
    for batch in plan.batches(0, 0, 1) + plan.batches(1, 0, 1):
        shapes.add(batch.shape)
        plain, compiled = (impression_loss(model, batch) for model in models)
        plain.backward()
        compiled.backward()
        assert float(compiled.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5)
    assert len(shapes) >= 3, shapes
    assert counters["stats"]["unique_graphs"] <= 3, counters["stats"]
    assert not counters["graph_break"], counters["graph_break"]


@pytest.mark.slow
def test_it_learns_and_says_how_fast(trained: Path) -> None:
    found = measured(trained, "whole")
    assert len(found.losses) == PLAN.steps
    assert np.isfinite(found.losses).all()
    for name in ("impressions_per_second", "rows_per_second", "tokens_per_second", "mfu"):
        assert getattr(found, name) > 0, name
    assert len(LOGITS) == 5


@pytest.mark.slow
def test_every_rank_says_what_it_held_and_waited_for(trained: Path) -> None:
    """The states of two ranks are half of those of one, and lab 1's formula gives their bytes."""
    whole, alone = measured(trained, "whole"), measured(trained, "alone")
    assert [len(each.ranks) for each in (whole, alone)] == [2, 1]
    for rank in whole.ranks:
        assert rank.held_bytes <= rank.predicted_bytes <= 1.1 * rank.held_bytes, rank
        assert rank.held_bytes < 0.6 * alone.ranks[0].held_bytes, rank
        assert 0.3 < rank.real_share <= 1, rank
        assert (rank.peak_bytes, rank.saves) == (None, 2), rank
        assert rank.stalled_s > 0, rank
    assert whole.communication_share is not None
    assert 0 < whole.communication_share < 1
    assert measured(trained, "replicated").communication_share is None
