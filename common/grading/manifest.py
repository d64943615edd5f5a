"""The fixed manifest: which tests an exercise has, as the instructor's reference ran them.

Every submission is held to the same list, with parameters. It is made once for a lab and a secret
seed, in the same sandbox, and kept by the hash of everything it depends on. A test that the
reference skips (no GPU here) can be passed by nobody: its exercise is *not run*.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import RunError
from common.exercises.catalog import Entry, ExerciseTest, discover_tests
from common.exercises.grading import FAILED, NOT_RUN, first_line
from common.grading.sandbox import Ran
from common.results import write_json

SCHEMA = 1


@dataclass(frozen=True)
class Manifest:
    """What a lab's exercises are graded by.

    Parameters
    ----------
    lab
        Folder name of the lab.
    digest
        Of the tests, the sources and the environment (:func:`common.grading.private_tree.digest`).
    secret_seed
        The seed the reference passed under; None for the public one.
    tests
        For each exercise the node ids with their parameters, in the order of the source.
    not_run
        Node ids that this machine cannot run, and why.
    fixed
        Tests that keep their public seeds: the reference does not pass them under others.
    """

    lab: str
    digest: str
    secret_seed: int | None
    tests: dict[str, list[str]]
    not_run: dict[str, str] = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)


Run = Callable[[Entry, Sequence[str], int | None, Sequence[str]], Ran]
"""Run an exercise's tests on the reference: exercise, nodes, secret seed, fixed tests."""


def nodes_by_exercise(root: Path, lab: str) -> dict[str, list[ExerciseTest]]:
    """The test functions of each exercise, as they stand in the source."""
    found: dict[str, list[ExerciseTest]] = {}
    for test in discover_tests(root, lab):
        found.setdefault(test.exercise, []).append(test)
    return found


def collect(
    root: Path, lab: str, entries: Sequence[Entry], digest: str, secret_seed: int | None, run: Run
) -> Manifest:
    """Run the reference and write down what its tests are.

    Raises
    ------
    RunError
        When the reference fails one of its own tests under the public seeds, too.
    """
    sources = nodes_by_exercise(root, lab)

    def one(entry: Entry) -> tuple[Ran, list[str]]:
        given = [test.node for test in sources.get(entry.id, [])]
        if not given:
            return Ran(collected=[], complete=True), []
        ran, fixed = run(entry, given, secret_seed, []), list[str]()
        failed = _failed(entry, ran)
        if failed and secret_seed is not None:
            fixed = sorted({node.partition("[")[0] for node in failed})
            ran = run(entry, given, secret_seed, fixed)
            failed = _failed(entry, ran)
        if failed:
            node, reason = next(iter(failed.items()))
            raise RunError(f"the reference fails {node} in the sandbox: {first_line(reason)}")
        return ran, fixed

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(pool.map(one, entries))
    not_run = {
        node: first_line(result["reason"])
        for ran, _ in found
        for node, result in ran.results.items()
        if result["outcome"] == NOT_RUN
    }
    tests = {entry.id: list(ran.collected or []) for entry, (ran, _) in zip(entries, found)}
    fixed = [node for _, kept in found for node in kept]
    return Manifest(lab, digest, secret_seed, tests, not_run, fixed)


def _failed(entry: Entry, ran: Ran) -> dict[str, str]:
    if ran.broken:
        raise RunError(f"{ran.broken[0]['node']}: {ran.broken[0]['reason']}")
    failed = {
        node: str(found["reason"])
        for node, found in ran.results.items()
        if found["outcome"] == FAILED
    }
    if failed:
        return failed
    if ran.tampering or not ran.complete:
        said = "; ".join(ran.tampering) or ran.ended or "no end"
        raise RunError(
            f"the reference of exercise {entry.id} does not get through the sandbox: {said}"
            f"{' in ' + ran.running if ran.running else ''}\n{ran.output[-2000:]}"
        )
    return {}


def load(path: Path, digest: str, secret_seed: int | None) -> Manifest | None:
    """A manifest written before, if it is whole and still holds."""
    try:
        written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if written.pop("schema") != SCHEMA:
            return None
        manifest = Manifest(**written)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    same = manifest.digest == digest and manifest.secret_seed == secret_seed
    return manifest if same else None


def save(manifest: Manifest, path: Path) -> None:
    """Write a manifest as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"schema": SCHEMA, **asdict(manifest)})
