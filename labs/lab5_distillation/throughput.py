"""How fast a model answers on one thread: latency of a text, texts a second, and their ratio.

Two measurements of one model on a shared machine differ by more than two models may. So models take
turns: whatever slows the machine for a while slows all of them, and ratios are taken within a turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, require
from common.latency import LatencySummary
from labs.lab5_distillation.retention import Interval, seed_interval

if TYPE_CHECKING:
    import torch

    from labs.lab5_distillation.encoders import TextClassifier
    from labs.lab5_distillation.tokens import TokenSet

Feed = Mapping[str, NDArray[np.int64]]
"""``input_ids`` and ``attention_mask``, int64 [B, L]."""
RunModel = Callable[[Any], Any]
"""``run(feed)`` -> logits [B, C]."""
MEGABYTE = 1e6


@dataclass(frozen=True)
class Throughput:
    """One model's calls over ``repeats`` turns.

    Attributes
    ----------
    per_repeat
        Texts a second in each turn.
    latency
        Of a call: of one text where batches hold one.
    texts_per_call
        Mean number of texts in a batch.
    """

    per_repeat: tuple[float, ...]
    latency: LatencySummary
    texts_per_call: float

    @property
    def texts_per_s(self) -> float:
        """Median over the turns."""
        return float(np.median(self.per_repeat))

    @property
    def spread(self) -> Interval:
        """Slowest and fastest turn, texts a second."""
        return min(self.per_repeat), max(self.per_repeat)


@dataclass(frozen=True)
class Ratio:
    """How many times as many texts a second, with the 95 % interval over turns."""

    value: float
    ci95: Interval
    per_repeat: tuple[float, ...]


def measure(
    models: Mapping[str, RunModel],
    feeds: Sequence[Any],
    *,
    repeats: int = 5,
    seconds: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Throughput]:
    """Time models in turns over the same batches.

    Before the first turn every model answers every batch once: allocation, and plans for each
    shape, are not of the steady state. In each turn every model, in an order that rotates, answers
    all batches in whole passes for at least ``seconds``, so all see the same mix of lengths.

    Parameters
    ----------
    models
        Name to ``run(feed) -> logits``; what it does counts, so let all do the same: all read
        token ids, or all read texts.
    feeds
        Batches: mappings of arrays, or anything with a length. Of one text each for latency (real
        texts of real lengths), of many of like length for throughput: see `single`, `batched`.
    repeats
        Turns, 2 at least.
    seconds
        Least time of a model in a turn.
    clock
        Seconds, monotonic.

    Returns
    -------
    dict
        Name to `Throughput`, in the order given.

    Raises
    ------
    InputError
        No models, no batches, fewer than 2 turns.
    """
    require(len(models) >= 1, "models", len(models), "must be at least 1")
    require(len(feeds) >= 1, "feeds", len(feeds), "must be at least 1 batch")
    require(repeats >= 2, "repeats", repeats, "must be at least 2", "one turn has no spread")
    require(seconds >= 0, "seconds", seconds, "must be >= 0")
    texts = sum(n_texts(feed) for feed in feeds)
    for run in models.values():
        for feed in feeds:
            run(feed)
    names = list(models)
    calls: dict[str, list[float]] = {name: [] for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            spent, passes = 0.0, 0
            while not passes or spent < seconds:
                took = _timed_pass(models[name], feeds, clock)
                calls[name] += took
                spent, passes = spent + sum(took), passes + 1
            if spent <= 0:
                raise InputError(f"{name} took no time that the clock can tell; give more batches")
            rates[name].append(passes * texts / spent)
    each = texts / len(feeds)
    how = f"{repeats} turns of all models, {len(feeds)} batches of {each:.3g} texts, after a pass"
    return {
        name: Throughput(tuple(rates[name]), LatencySummary.of(calls[name], how=how), each)
        for name in names
    }


def _timed_pass(run: RunModel, feeds: Sequence[Any], clock: Callable[[], float]) -> list[float]:
    took = []
    for feed in feeds:
        start = clock()
        run(feed)
        took.append(clock() - start)
    return took


def throughput_ratio(fast: Throughput, slow: Throughput) -> Ratio:
    """``fast`` over ``slow``, turn by turn, of two models from one `measure`.

    The value is the geometric mean of the turns' ratios and the interval a t interval of their
    logarithms: turns that were slow for both leave the ratio alone.
    """
    if len(fast.per_repeat) != len(slow.per_repeat):
        raise InputError(
            f"{len(fast.per_repeat)} and {len(slow.per_repeat)} turns: measure both in one call"
        )
    ratios = np.asarray(fast.per_repeat) / np.asarray(slow.per_repeat)
    interval = seed_interval(np.log(ratios))
    assert interval is not None  # measure refuses a single turn
    value = exp(float(np.log(ratios).mean()))
    return Ratio(value, (exp(interval[0]), exp(interval[1])), tuple(ratios.tolist()))


def n_texts(feed: Any) -> int:
    """Texts of a batch: rows of its arrays, or its length."""
    return len(next(iter(feed.values()))) if isinstance(feed, Mapping) else len(feed)


def batched(texts: TokenSet, size: int = 32) -> list[Feed]:
    """Batches of like length, each padded to its own longest text."""
    from labs.lab5_distillation.tokens import Batches

    return [_feed(batch) for batch in Batches(texts, size)]


def single(texts: TokenSet, n: int = 200, seed: int = 0) -> list[Feed]:
    """``n`` texts drawn at random, one a batch, without padding."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(texts))[:n]
    return [_feed(texts.batch(rows[i : i + 1])) for i in range(len(rows))]


def padding(feeds: Sequence[Feed]) -> float:
    """Share of the positions that hold no token."""
    total = sum(feed["attention_mask"].size for feed in feeds)
    return 1 - sum(int(feed["attention_mask"].sum()) for feed in feeds) / total


def _feed(batch: Any) -> Feed:
    return {
        "input_ids": batch.input_ids.cpu().numpy(),
        "attention_mask": batch.attention_mask.cpu().numpy(),
    }


def onnx_runner(path: Path | str, *, threads: int = 1) -> RunModel:
    """``run(feed)`` of an ONNX file on the CPU; inputs that the graph lacks are left out.

    Parameters
    ----------
    path
        A file whose first output is the logits.
    threads
        Inside an operator; one operator at a time.
    """
    import onnxruntime as ort

    require(Path(path).is_file(), "path", str(path), "must be an ONNX file", "export it first")
    require(threads >= 1, "threads", threads, "must be at least 1")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # An idle thread that spins takes its core from the model that is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = [each.name for each in session.get_inputs()]
    output = [session.get_outputs()[0].name]

    def run(feed: Feed) -> Any:
        return session.run(output, {name: feed[name] for name in wanted})[0]

    return run


def torch_runner(model: TextClassifier, device: str | torch.device = "cpu") -> RunModel:
    """``run(feed)`` of a classifier in evaluation mode; it waits for the device to finish."""
    import torch

    model = model.eval().to(device)

    def run(feed: Feed) -> Any:
        with torch.inference_mode():
            ids = torch.from_numpy(feed["input_ids"]).to(device)
            mask = torch.from_numpy(feed["attention_mask"]).to(device)
            return model(ids, mask).cpu().numpy()

    return run


@contextmanager
def torch_threads(n: int = 1) -> Iterator[None]:
    """PyTorch with ``n`` threads inside an operator, and what it had before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def logits_of(run: RunModel, texts: TokenSet, *, size: int = 32) -> NDArray[np.float32]:
    """Logits [N, C] of a runner in the order of the texts.

    Dynamic INT8 takes one scale for a whole batch, so an answer may depend on ``size`` and on what
    else is in the batch.
    """
    from labs.lab5_distillation.tokens import Batches

    found: NDArray[np.float32] | None = None
    for batch in Batches(texts, size):
        part = np.asarray(run(_feed(batch)), dtype=np.float32)
        if found is None:
            found = np.empty((len(texts), part.shape[1]), np.float32)
        found[batch.rows.cpu().numpy()] = part
    assert found is not None
    return found


def size_mb(path: Path | str) -> float:
    """Size of an ONNX file in MB (10^6 bytes), its external data included."""
    file = Path(path)
    require(file.is_file(), "path", str(path), "must be a file", "export the model first")
    data = [file, file.with_name(f"{file.name}.data"), file.with_name(f"{file.name}_data")]
    return sum(each.stat().st_size for each in data if each.is_file()) / MEGABYTE
