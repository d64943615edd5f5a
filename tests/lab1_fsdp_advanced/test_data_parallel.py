"""Data parallelism by hand on two ranks, against one process and DistributedDataParallel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import InputError
from labs.lab1_fsdp_advanced.data_parallel import assign_buckets


def measure(ranks):
    import contextlib
    from copy import deepcopy

    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    from common.errors import RunError
    from labs.lab1_fsdp_advanced.data_parallel import (
        BucketedDataParallel,
        average_gradients,
        broadcast_weights,
    )
    from labs.lab1_fsdp_advanced.traffic import Traffic

    LIMIT = 400  # Bytes: several buckets, the last of them not full.

    class Model(nn.Module):
        """Two branches of equal size, which share a bucket, and a layer that nobody calls."""

        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 8)
            self.left, self.right = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.never = nn.Linear(3, 3)
            self.last = nn.Linear(4, 3)

        def forward(self, x, branch):
            halves = torch.tanh(self.first(x)).chunk(2, dim=1)
            return self.last(getattr(self, branch)(halves[0]) + halves[1])

    def chain(seed):
        torch.manual_seed(seed)
        return nn.Sequential(*[nn.Linear(6, 6) for _ in range(6)], nn.Linear(6, 3))

    def loss_fn(model, x, y, *arguments):
        return ((model(x, *arguments) - y) ** 2).mean()

    def largest(value):
        """Over both ranks."""
        value = torch.tensor(float(value), dtype=torch.float64)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return float(value)

    def distance(model, other):
        pairs = list(zip(model.parameters(), other.parameters()))
        return largest(max(float((a - b).detach().abs().max()) for a, b in pairs))

    def gradient_distance(model, other):
        pairs = [(a.grad, b.grad) for a, b in zip(model.parameters(), other.parameters())]
        known = [(a - b).abs().max() for a, b in pairs if a is not None and b is not None]
        missing = any(a is None and b is not None for a, b in pairs)
        return largest(float("inf") if missing else max(known))

    torch.manual_seed(0)
    x, y = torch.randn(12, 6), 3 * torch.randn(12, 3)
    micro = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]

    def share(pair):
        return tuple(each[ranks.rank :: ranks.world] for each in pair)

    answers = {"parameters": len(list(chain(0).parameters()))}
    launches = []
    original = dist.all_reduce

    def watched(*args, **kwargs):
        launches.append(bool(kwargs.get("async_op")))
        return original(*args, **kwargs)

    # Every rank begins with weights of its own; those of rank 0 must win.
    for optimizer_class, options in ((torch.optim.SGD, {"lr": 0.1}), (torch.optim.AdamW, {})):
        model = chain(ranks.rank)
        wrapped = BucketedDataParallel(model, bucket_bytes=LIMIT)
        buckets = len(wrapped.buckets)
        alone, naive, theirs = (chain(0) for _ in range(3))
        ddp = DistributedDataParallel(theirs)
        models = (model, alone, naive, theirs)
        optimizers = [optimizer_class(each.parameters(), **options) for each in models]
        rows = []
        for _ in range(5):
            dist.all_reduce = watched
            launches.clear()
            with Traffic() as traffic:
                loss_fn(wrapped, *share((x, y))).backward()
                during = traffic.collectives
                wrapped.finish()
            dist.all_reduce = original
            loss_fn(alone, x, y).backward()
            with Traffic() as one_by_one:
                loss_fn(naive, *share((x, y))).backward()
                average_gradients(naive.parameters())
            loss_fn(ddp, *share((x, y))).backward()
            row = {
                "gradient": gradient_distance(model, alone),
                "gradient naive": gradient_distance(naive, alone),
                "collectives": traffic.collectives,
                "during": during,
                "asynchronous": list(launches),
                "naive": one_by_one.collectives,
            }
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            rows.append(
                row
                | {
                    "weights": distance(model, alone),
                    "weights ddp": distance(model, theirs),
                    "weights naive": distance(naive, theirs),
                }
            )
        answers[optimizer_class.__name__] = rows
    answers["buckets"] = buckets

    # Accumulation: nothing is sent before the last of three micro-batches.
    alone = chain(0)
    wrapped = BucketedDataParallel(chain(0), bucket_bytes=LIMIT)
    rows = []
    for _ in range(2):
        alone.zero_grad()
        wrapped.zero_grad()
        loss_fn(alone, x, y).backward()
        with Traffic() as traffic:
            with wrapped.no_sync():
                for batch in micro[:-1]:
                    (loss_fn(wrapped, *share(batch)) / 3).backward()
            quiet = traffic.collectives
            (loss_fn(wrapped, *share(micro[-1])) / 3).backward()
            wrapped.finish()
        rows.append(
            {
                "quiet": quiet,
                "collectives": traffic.collectives,
                "gradient": gradient_distance(wrapped.module, alone),
            }
        )
    answers["accumulation"] = rows

    # Each rank takes another branch; then one branch a micro-batch, the same on both ranks.
    def fresh():
        torch.manual_seed(2)
        return Model()

    def branches(bucket_bytes):
        alone, wrapped = fresh(), BucketedDataParallel(fresh(), bucket_bytes=bucket_bytes)
        module, rows = wrapped.module, {}
        mine = ("left", "right")[ranks.rank % 2]
        for name in ("by rank", "by rank again", "by micro-batch"):
            alone.zero_grad()
            wrapped.zero_grad()
            if name == "by micro-batch":
                for branch, batch in zip(("left", "right"), micro):
                    (loss_fn(alone, *batch, branch) / 2).backward()
                    last = branch == "right"
                    with contextlib.nullcontext() if last else wrapped.no_sync():
                        (loss_fn(wrapped, *share(batch), branch) / 2).backward()
            else:
                parts = [(x[r :: ranks.world], y[r :: ranks.world]) for r in range(ranks.world)]
                for part, branch in zip(parts, ("left", "right")):
                    (loss_fn(alone, *part, branch) / ranks.world).backward()
                loss_fn(wrapped, *share((x, y)), mine).backward()
            wrapped.finish()
            rows[name] = {
                "gradient": gradient_distance(module, alone),
                "never": [
                    None if p.grad is None else float(p.grad.abs().max())
                    for p in module.never.parameters()
                ],
            }
        return rows

    answers["one bucket"] = branches(2**20)
    answers["many buckets"] = branches(60)

    # A world of one, and what is refused.
    groups = [dist.new_group([rank]) for rank in range(ranks.world)]
    alone = chain(0)
    single = BucketedDataParallel(deepcopy(alone), bucket_bytes=LIMIT, group=groups[ranks.rank])
    for each in (alone, single):
        loss_fn(each, x, y).backward()
    single.finish()
    answers["world of one"] = gradient_distance(single.module, alone)
    try:
        for _ in range(2):
            loss_fn(single, x, y).backward()
        answers["twice"] = "nothing was raised"
    except RunError as error:
        answers["twice"] = str(error)
    norm = nn.BatchNorm1d(3)
    norm.running_mean += ranks.rank
    broadcast_weights(norm)
    answers["buffer"] = largest(norm.running_mean.abs().max())
    return answers


@pytest.fixture(scope="module")
def answers(on_ranks):
    return on_ranks(measure)


@pytest.mark.exercise("1.3")
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_two_ranks_compute_the_gradient_of_one_process(answers, optimizer):
    """After finish(), p.grad is the mean over ranks: the gradient of the whole batch.

    A sum makes the learning rate grow with the number of ranks. AdamW hides that, as it divides
    each gradient by its own size, until weight decay or clipping brings it out.
    """
    for step, row in enumerate(answers[optimizer], 1):
        assert row["gradient"] < 1e-6, (
            f"{optimizer}, step {step}: gradients differ by {row['gradient']:.3g} from those of "
            "one process, limit 1e-6"
        )


@pytest.mark.exercise("1.3")
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_training_equals_one_process_and_distributed_data_parallel(answers, optimizer):
    """Five steps end at the weights of one process and of torch's DistributedDataParallel.

    One step can be right by luck: what is left in a bucket from the last step shows in the next.
    """
    for step, row in enumerate(answers[optimizer], 1):
        for other, key in (("one process", "weights"), ("DDP", "weights ddp")):
            assert row[key] < 1e-6, (
                f"{optimizer}, step {step}: weights differ by {row[key]:.3g} from those of "
                f"{other}, limit 1e-6"
            )


@pytest.mark.exercise("1.3")
def test_a_step_sends_one_message_for_each_bucket(answers):
    """As many all-reduces as buckets, far fewer than parameters: each one costs a latency."""
    buckets, parameters = answers["buckets"], answers["parameters"]
    for step, row in enumerate(answers["SGD"], 1):
        assert row["collectives"] == buckets, (
            f"step {step}: {row['collectives']} collectives for {buckets} buckets and {parameters} "
            "parameters, expected one for each bucket"
        )


@pytest.mark.exercise("1.3")
def test_messages_are_sent_while_the_backward_pass_computes(answers):
    """Each full bucket is launched by the hook, with async_op=True, before finish() is called.

    Launched in finish(), the same messages give the same gradient, and their time is added to that
    of the backward pass instead of hidden behind it.
    """
    buckets = answers["buckets"]
    row = answers["SGD"][0]
    assert row["during"] == buckets, (
        f"{row['during']} of {buckets} buckets were launched by the end of the backward pass, in "
        "which every parameter got its gradient; expected all"
    )
    assert all(row["asynchronous"]), (
        f"async_op of the all-reduces: {row['asynchronous']}; a blocking one holds up the rest of "
        "the backward pass"
    )


@pytest.mark.exercise("1.3")
def test_nothing_is_sent_inside_no_sync(answers):
    """Three micro-batches cost one exchange, after the last; the gradient is the same.

    Exchanging after each gives the same gradient for three times the communication.
    """
    buckets = answers["buckets"]
    for row in answers["accumulation"]:
        assert row["quiet"] == 0, f"{row['quiet']} collectives inside no_sync, expected none"
        assert row["collectives"] == buckets, (
            f"{row['collectives']} collectives in a step, expected {buckets}, one for each bucket"
        )
        assert row["gradient"] < 1e-6, (
            f"gradients of 3 micro-batches differ by {row['gradient']:.3g} from those of one "
            "process, limit 1e-6"
        )


@pytest.mark.exercise("1.3")
@pytest.mark.parametrize("case", ["one bucket", "many buckets"])
@pytest.mark.parametrize("turn", ["by rank", "by rank again"])
def test_ranks_that_use_different_parameters_agree(answers, case, turn):
    """Rank 0 uses one branch and rank 1 the other: a rank without a gradient counts as zero.

    Left out of the message instead, its place is taken by another parameter's gradient, and the
    sum mixes the two. Where sizes differ the job hangs, which is the better outcome. So do buckets
    sent in the order in which they happen to fill; sent in turn, they match.
    """
    difference = answers[case][turn]["gradient"]
    assert difference < 1e-6, (
        f"{case}, {turn}: gradients differ by {difference:.3g} from those of one process, limit "
        "1e-6 (inf: a gradient is missing)"
    )


@pytest.mark.exercise("1.3")
@pytest.mark.parametrize("case", ["one bucket", "many buckets"])
def test_a_gradient_of_an_earlier_micro_batch_is_exchanged_too(answers, case):
    """A parameter used only inside no_sync has a gradient, though its hook did not run since.

    finish() launches every bucket that is left. The one that never filled keeps each rank's own
    gradient otherwise, and these weights drift apart while all others agree.
    """
    difference = answers[case]["by micro-batch"]["gradient"]
    assert difference < 1e-6, (
        f"{case}: gradients differ by {difference:.3g} from those of one process, limit 1e-6"
    )


@pytest.mark.exercise("1.3")
@pytest.mark.parametrize("case", ["one bucket", "many buckets"])
def test_a_parameter_that_no_rank_used_keeps_no_gradient(answers, case):
    """grad stays None, as in one process: with a gradient of zero, AdamW would decay the weight."""
    for turn in ("by rank", "by micro-batch"):
        found = answers[case][turn]["never"]
        assert found == [None, None], f"{case}, {turn}: largest gradients {found}, expected None"


def test_the_naive_way_is_right_and_sends_a_message_for_each_parameter(answers):
    for optimizer in ("SGD", "AdamW"):
        for row in answers[optimizer]:
            assert row["gradient naive"] < 1e-6
            assert row["weights naive"] < 1e-6
            assert row["naive"] == answers["parameters"]


def test_a_world_of_one_and_what_is_refused(answers):
    assert answers["world of one"] == 0
    assert "no_sync" in answers["twice"]
    assert answers["buffer"] == 0, "rank 0's buffers are sent as well"


@settings(derandomize=True, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), limit=st.integers(1, 200))
def test_buckets_hold_every_parameter_once_last_first_within_the_limit(sizes, limit):
    parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
    buckets = [bucket.parameters for bucket in assign_buckets(parameters, limit)]
    assert [id(p) for bucket in buckets for p in bucket] == [id(p) for p in reversed(parameters)]
    for bucket in buckets:
        assert len(bucket) == 1 or sum(4 * p.numel() for p in bucket) <= limit


def test_a_bucket_has_one_dtype_and_only_what_is_trained():
    parameters = [
        nn.Parameter(torch.zeros(2)),
        nn.Parameter(torch.zeros(2, dtype=torch.bfloat16)),
        nn.Parameter(torch.zeros(2), requires_grad=False),
    ]
    buckets = [bucket.parameters for bucket in assign_buckets(parameters, 2**20)]
    assert [[p.dtype for p in bucket] for bucket in buckets] == [[torch.bfloat16], [torch.float32]]
    with pytest.raises(InputError, match="bucket_bytes = 0 must be > 0"):
        assign_buckets(parameters, 0)
