"""The training step on two ranks against one process, and the loop that goes on."""

import pytest

from labs.lab1_fsdp_advanced.training import StepResult

STRATEGIES = ("NO_SHARD", "ZERO_1", "SHARD_GRAD_OP", "FULL_SHARD", "HYBRID_SHARD")


def measure(ranks):
    import torch
    from torch import nn
    from torch.amp import GradScaler
    from torch.distributed._composable.replicate_with_fsdp import replicate
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    from common.errors import InputError, RunError
    from labs.lab1_fsdp_advanced import training
    from labs.lab1_fsdp_advanced.training import train_step

    # Wrapped by hand, so that these tests do not need exercise 1.1; stepped by hand for 1.8.
    line = init_device_mesh("cpu", (ranks.world,))
    grid = init_device_mesh("cpu", (ranks.world, 1), mesh_dim_names=("replicate", "shard"))
    wrappers = {
        "NO_SHARD": lambda module: replicate(module, mesh=line),
        "ZERO_1": lambda m: fully_shard(m, mesh=line, reshard_after_forward=False),
        "SHARD_GRAD_OP": lambda m: fully_shard(m, mesh=line, reshard_after_forward=False),
        "FULL_SHARD": lambda module: fully_shard(module, mesh=line),
        "HYBRID_SHARD": lambda module: fully_shard(module, mesh=grid),
    }

    def fresh():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def loss_fn(model, batch):
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    def weights(model):
        whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
        return torch.cat([p.detach().flatten() for p in whole])

    def step_and_update(optimizer, parameters, scaler, max_norm):
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        return norm, scaler.get_scale() < before

    training.scaled_step = step_and_update

    def distance(model, reference):
        return float((weights(model) - weights(reference)).abs().max())

    def count_steps(model):
        """Calls of the synchronisation switch, as they are made."""
        calls = []
        original = model.set_requires_gradient_sync

        def recording(value, **options):
            calls.append(bool(value))
            return original(value, **options)

        model.set_requires_gradient_sync = recording
        return calls

    gathered = []

    def watched(model, batch):
        """Whether the block's weights are whole already when a micro-batch begins."""
        gathered.append(not isinstance(model[0].weight, DTensor))
        return loss_fn(model, batch)

    torch.manual_seed(0)
    x, y = torch.randn(12, 6), 3 * torch.randn(12, 3)
    micro = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    mine = [(a[ranks.rank :: ranks.world], b[ranks.rank :: ranks.world]) for a, b in micro]
    answers = {}
    for strategy, wrap in wrappers.items():
        model, alone = fresh(), fresh()
        wrap(model[0])
        wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        theirs = torch.optim.SGD(alone.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        calls = count_steps(model)
        rows = []
        gathered.clear()
        for step in range(3):
            theirs.param_groups[0]["lr"] = 0.1 * 0.5**step
            loss = loss_fn(alone, (x, y))
            theirs.zero_grad()
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(alone.parameters(), 0.5))
            theirs.step()
            result = train_step(
                model, optimizer, mine, watched, max_norm=0.5, scheduler=scheduler,
                reshard_between=strategy != "ZERO_1",
            )  # fmt: skip
            rows.append(
                {
                    "loss": [result.loss, float(loss)],
                    "norm": [result.grad_norm, norm],
                    "weights": distance(model, alone),
                }
            )
        left = sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)
        answers[strategy] = {
            "rows": rows, "calls": calls, "left": left, "gathered": gathered[:],
            "sharded_after": isinstance(model[0].weight, DTensor),
        }  # fmt: skip
    model = wrappers["FULL_SHARD"](fresh())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    alone = fresh()
    loss = loss_fn(alone, (x, y))
    loss.backward()
    free = float(nn.utils.clip_grad_norm_(alone.parameters(), float("inf")))
    torch.optim.SGD(alone.parameters(), lr=0.1).step()
    result = train_step(model, optimizer, mine, loss_fn, max_norm=None)
    answers["unclipped"] = {"norm": [result.grad_norm, free], "weights": distance(model, alone)}
    before = weights(model)
    for name, batches, kind in (("empty", [], InputError), ("nan", [mine[0]] * 2, RunError)):
        poisoned = [(a * float("nan"), b) for a, b in batches]
        try:
            train_step(model, optimizer, poisoned, loss_fn, max_norm=1.0)
            answers[name] = "nothing was raised"
        except kind as error:
            answers[name] = str(error)
    answers["moved by nan"] = float((weights(model) - before).abs().max())

    model, alone = wrappers["FULL_SHARD"](fresh()), fresh()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaler = GradScaler("cpu", init_scale=1024.0)
    loss = loss_fn(alone, (x, y))
    loss.backward()
    norm = float(nn.utils.clip_grad_norm_(alone.parameters(), 0.5))
    torch.optim.SGD(alone.parameters(), lr=0.1).step()
    options = {"max_norm": 0.5, "scheduler": scheduler, "scaler": scaler}
    result = train_step(model, optimizer, mine, loss_fn, **options)
    answers["scaled"] = {
        "loss": [result.loss, float(loss)], "norm": [result.grad_norm, norm],
        "weights": distance(model, alone), "skipped": result.skipped,
        "rate": scheduler.get_last_lr()[0],
    }  # fmt: skip
    overflowing = [mine[0], (mine[1][0] * float("inf"), mine[1][1]), mine[2]]
    before = weights(model)
    result = train_step(model, optimizer, overflowing, loss_fn, **options)
    left = sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)
    answers["overflow"] = {
        "skipped": result.skipped, "rate": scheduler.get_last_lr()[0],
        "moved": float((weights(model) - before).abs().max()), "left": left,
        "scale": scaler.get_scale(),
    }  # fmt: skip
    scaler = GradScaler("cpu", init_scale=1.5e-4)
    try:
        train_step(model, optimizer, overflowing, loss_fn, max_norm=0.5, scaler=scaler)
        answers["diverged"] = "nothing was raised"
    except RunError as error:
        answers["diverged"] = str(error)
    return answers


@pytest.fixture(scope="module")
def answers(on_ranks):
    return on_ranks(measure)


@pytest.mark.exercise("1.2")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accumulation_on_two_ranks_equals_one_large_batch(answers, strategy):
    """Three micro-batches on each of two ranks move the weights as one batch of all of them does.

    A sum where a mean belongs makes the learning rate depend on the number of micro-batches; ranks
    that did not exchange gradients drift apart.
    """
    for step, row in enumerate(answers[strategy]["rows"], 1):
        assert row["weights"] < 1e-5, (
            f"{strategy}: after step {step} the weights differ by {row['weights']:.3g} from those "
            "of one process, limit 1e-5"
        )


@pytest.mark.exercise("1.2")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_norm_is_that_of_the_whole_gradient(answers, strategy):
    """grad_norm equals one process's: the norm of all shards, before clipping.

    A rank that reports the norm of its own shard under-reports it by about the square root of the
    number of ranks, and the curve looks healthy while the model diverges.
    """
    for step, row in enumerate(answers[strategy]["rows"], 1):
        measured, expected = row["norm"]
        assert measured == pytest.approx(expected, rel=1e-4), (
            f"{strategy}, step {step}: grad_norm {measured:.6f}, one process has {expected:.6f}"
        )


@pytest.mark.exercise("1.2")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_loss_is_the_mean_over_micro_batches_and_ranks(answers, strategy):
    """loss equals that of one large batch: neither a sum, nor the last micro-batch, nor rank 0's.

    Runs with different accumulation can only be compared when their losses mean the same.
    """
    for step, row in enumerate(answers[strategy]["rows"], 1):
        measured, expected = row["loss"]
        assert measured == pytest.approx(expected, rel=1e-4), (
            f"{strategy}, step {step}: loss {measured:.6f}, one large batch has {expected:.6f}"
        )


@pytest.mark.exercise("1.2")
def test_ranks_talk_only_after_the_last_micro_batch(answers):
    """Gradient synchronisation is off for all micro-batches but the last of each step.

    Exchanging after each one gives the same gradient for as many times the communication.
    """
    calls = answers["FULL_SHARD"]["calls"]
    assert calls, "set_requires_gradient_sync was never called: each micro-batch communicated"
    on = sum(calls)
    assert on <= 3, f"3 steps switched synchronisation on {on} times, expected once a step: {calls}"
    assert not calls[0], f"the first micro-batch of three was synchronised: {calls}"


@pytest.mark.exercise("1.2")
def test_no_gradient_is_left_for_the_next_step(answers):
    """Gradients add up in p.grad until they are cleared: the next step would include this one."""
    left = answers["FULL_SHARD"]["left"]
    assert left == 0, f"gradients that sum to {left:.4g} are left after the step, expected none"


@pytest.mark.exercise("1.2")
def test_without_a_limit_the_gradient_is_not_clipped(answers):
    """max_norm=None reports the norm and leaves the gradient as it is."""
    answer = answers["unclipped"]
    measured, expected = answer["norm"]
    assert measured == pytest.approx(expected, rel=1e-4), f"norm {measured}, expected {expected}"
    assert answer["weights"] < 1e-5, f"weights differ by {answer['weights']:.3g}: it was clipped"


@pytest.mark.exercise("1.2")
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(answers):
    """One NaN in the gradient makes every weight NaN at the next step: raise before it."""
    assert "nan" in answers["nan"], f"a gradient of NaN: {answers['nan']}"
    assert answers["moved by nan"] == 0, f"the weights moved by {answers['moved by nan']}"


@pytest.mark.exercise("1.2")
def test_zero_1_gathers_the_weights_once_a_step(answers):
    """reshard_between=False: the second and third micro-batch find the weights whole.

    And after the step they are sharded again. ZeRO-2 gathers for each micro-batch: three times the
    traffic for a third of the memory.
    """
    once, thrice = answers["ZERO_1"]["gathered"], answers["SHARD_GRAD_OP"]["gathered"]
    assert once == [False, True, True] * 3, (
        f"reshard_between=False: weights whole before each micro-batch of 3 steps: {once}, "
        "expected all but the first of each step"
    )
    assert thrice == [False] * 9, (
        f"reshard_between=True: weights whole before each micro-batch: {thrice}, expected never"
    )
    assert answers["ZERO_1"]["sharded_after"], "the weights stay whole after the step"


@pytest.mark.exercise("1.2")
def test_a_scaler_changes_neither_loss_nor_step(answers):
    """The loss is scaled for the backward pass only: what is reported and applied is unscaled."""
    answer = answers["scaled"]
    for name in ("loss", "norm"):
        measured, expected = answer[name]
        assert measured == pytest.approx(expected, rel=1e-4), (
            f"with a scaler: {name} {measured:.6f}, without {expected:.6f}"
        )
    assert answer["weights"] < 1e-5, (
        f"with a scaler the weights differ by {answer['weights']:.3g}, limit 1e-5"
    )
    assert answer["skipped"] is False, "a step that was made counts as skipped"
    assert answer["rate"] == 0.05, f"learning rate {answer['rate']} after the step, expected 0.05"


@pytest.mark.exercise("1.2")
def test_a_step_that_the_scaler_left_out_is_no_step(answers):
    """The weights stay, the schedule stays, the gradient is forgotten, and the result says so.

    A schedule that goes on without the optimizer has less and less to do with the weights.
    """
    answer = answers["overflow"]
    assert answer["skipped"] is True, f"skipped = {answer['skipped']}, expected True"
    assert answer["moved"] == 0, f"the weights moved by {answer['moved']}"
    assert answer["rate"] == 0.05, f"the learning rate went on to {answer['rate']}, expected 0.05"
    assert answer["left"] == 0, f"gradients that sum to {answer['left']} are left"


@pytest.mark.exercise("1.2")
def test_a_scale_that_falls_without_end_is_reported(answers):
    """Below LEAST_SCALE it is not the scale that makes the gradient overflow: raise.

    A run that has diverged would otherwise leave out every step until somebody looks at it.
    """
    found = answers["diverged"]
    assert "overflow" in found or "diverged" in found, f"at a scale of 7.5e-05: {found}"


def test_a_step_without_micro_batches_is_refused(answers):
    assert "empty" in answers["empty"]


def test_a_step_is_not_skipped_unless_it_says_so():
    assert StepResult(1.0, 2.0) == StepResult(loss=1.0, grad_norm=2.0, skipped=False)


def loop(ranks):
    import tempfile
    from pathlib import Path

    import torch
    from torch import nn
    from torch.amp import GradScaler

    from common.errors import InputError
    from labs.lab1_fsdp_advanced.sharding import Strategy, shard
    from labs.lab1_fsdp_advanced.training import cosine_schedule, fit

    def batches(step, rank, world):
        drawn = torch.Generator().manual_seed(step)
        x = torch.randn(8, 6, generator=drawn)
        return [(x[rank::world], x[rank::world].sum(1, keepdim=True))]

    def loss_fn(model, batch):
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    def run(steps, directory, save_every):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        shard(model, Strategy.FULL_SHARD, device="cpu")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        seen = []
        fitted = fit(
            model, optimizer, batches, loss_fn, steps=steps, seed=7, directory=directory,
            scheduler=cosine_schedule(optimizer, 8), save_every=save_every,
            on_step=lambda done, result: seen.append(done),
        )  # fmt: skip
        return fitted.first_step, [result.loss for result in fitted.history], seen

    name = [tempfile.mkdtemp() if ranks.is_main else None]
    torch.distributed.broadcast_object_list(name, src=0)
    base = Path(name[0])
    folder = base / "run"
    first, whole, seen = run(8, None, 0)
    run(5, folder, 3)
    resumed_at, rest, _ = run(8, folder, 0)
    finished_at, nothing, _ = run(5, folder, 0)
    try:
        run(2, None, 1)
        refused = ""
    except InputError as error:
        refused = str(error)

    def run_scaled(steps, directory, save_every, scaled=True):
        torch.manual_seed(3)
        model = nn.Linear(6, 1)
        shard(model, Strategy.FULL_SHARD, device="cpu")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        # Too large a scale at first, and grown again every other step.
        scaler = GradScaler("cpu", init_scale=2.0**126, growth_interval=2) if scaled else None
        scales = []
        fitted = fit(
            model, optimizer, batches, loss_fn, steps=steps, scaler=scaler,
            scheduler=cosine_schedule(optimizer, 8), directory=directory, save_every=save_every,
            on_step=lambda done, result: scales.append(scaler.get_scale() if scaled else 0),
        )  # fmt: skip
        rows = [[result.loss, result.grad_norm, result.skipped] for result in fitted.history]
        return rows, scales

    other = base / "scaled"
    scaled = {"whole": run_scaled(8, None, 0)}
    run_scaled(5, other, 5)
    scaled["rest"] = run_scaled(8, other, 0)
    run_scaled(5, base / "plain", 5, scaled=False)
    try:
        run_scaled(8, base / "plain", 0)
    except InputError as error:
        scaled["refused"] = str(error)
    return {
        "scaled": scaled,
        "first": first, "whole": whole, "seen": seen, "resumed_at": resumed_at, "rest": rest,
        "finished": [finished_at, nothing], "refused": refused,
        "kept": sorted(path.name for path in folder.iterdir()),
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs(on_ranks):
    return on_ranks(loop)


def test_an_interrupted_run_goes_on_exactly(runs):
    """Dropout, data order and learning rate included: the same losses, bit for bit."""
    assert runs["first"] == 0
    assert runs["seen"] == list(range(1, 9))
    assert runs["resumed_at"] == 5, "a checkpoint is also written after the last step"
    assert runs["rest"] == runs["whole"][5:]
    assert runs["finished"] == [5, []], "a run that is complete has nothing left to do"
    assert "needs a directory" in runs["refused"]
    assert runs["kept"] == ["latest", "step-00000003", "step-00000005"]


def test_an_interrupted_run_goes_on_with_its_scale_and_its_schedule(runs):
    """fp16: losses, norms, steps left out and scales are those of the uninterrupted run."""
    (whole, scales), (rest, resumed) = runs["scaled"]["whole"], runs["scaled"]["rest"]
    left_out = [skipped for _, _, skipped in whole]
    assert any(left_out), "the test must see a step that is left out"
    assert not all(left_out), "the test must see a step that is made"
    assert len(set(scales)) > 1, "the test must see the scale move"
    assert [rest, resumed] == [whole[5:], scales[5:]]


def test_a_checkpoint_without_a_scale_is_refused(runs):
    """A run that began in bf16 has no scale to go on with."""
    assert "step 5" in runs["scaled"]["refused"]
    assert "has no scaler" in runs["scaled"]["refused"]
