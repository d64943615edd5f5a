"""Every method of inference that the lab has, and the validation of all of them on all cores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import import_module
from multiprocessing import active_children, get_context

from common._guard import follow
from labs.lab6_online_eval.validation import Method, Verdict, validate

TOPICS = (
    *("significance", "analysis", "sequential", "design", "interleaving"),
    *("bandits", "causal", "longterm"),
)


def catalogue() -> dict[str, Method]:
    """The methods of every topic, right and wrong ones, by name."""
    found: dict[str, Method] = {}
    for topic in TOPICS:
        for method in import_module(f"labs.lab6_online_eval.methods_{topic}").methods():
            if method.name in found:
                raise ValueError(f"two methods are called {method.name}")
            found[method.name] = method
    return found


def validate_all(
    names: Sequence[str], *, n: int, seed: int = 0, workers: int = 1
) -> Iterator[Verdict]:
    """The verdict on each method, as they come; each worker is a process of its own."""
    if workers == 1:
        methods = catalogue()
        for name in names:
            yield validate(methods[name], n, seed)
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=follow, initargs=(os.getpid(),)
    ) as pool:
        jobs = [pool.submit(_verdict, name, n, seed) for name in names]
        try:
            for job in as_completed(jobs):
                yield job.result()
        except BaseException:
            for worker in active_children():  # what they compute is of no use any more
                worker.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _verdict(name: str, n: int, seed: int) -> Verdict:
    return validate(catalogue()[name], n, seed)
