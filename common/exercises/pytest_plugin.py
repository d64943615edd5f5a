"""Pytest plugin: select and order the tests of the exercises, add up the points, GPU rule.

Registered in ``pyproject.toml``. Everything that reads the catalog is imported only when a test
marked ``exercise`` was collected or points are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.exercises.overlay import VARIABLE, in_student_repository, use_work_unasked

if TYPE_CHECKING:
    from common.exercises.catalog import Entry

REQUIRE_GPU = "LABS_REQUIRE_GPU"
NEEDED_GPUS = {"gpu": 1, "multigpu": 2}
CATALOG = pytest.StashKey["list[Entry]"]()
EXERCISE = pytest.StashKey[str]()
FAULT = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("exercises")
    group.addoption(
        "--exercise",
        action="append",
        default=[],
        metavar="ID",
        help="only the tests of this exercise, such as 5.1 (may be repeated)",
    )
    group.addoption(
        "--exercise-stop",
        action="store_true",
        help="stop at the first failing test of an exercise, in the order of the exercises",
    )
    group.addoption(
        "--exercise-report", metavar="FILE", help="write what each exercise did as JSON"
    )
    group.addoption(
        "--gradescope", metavar="FILE", help="write Gradescope's results.json (needs LABS_WORK)"
    )


def pytest_configure(config: pytest.Config) -> None:
    use_work_unasked()
    work = os.environ.get(VARIABLE)
    if work:
        folder = (config.invocation_params.dir / work).resolve()
        if not folder.is_dir():
            raise pytest.UsageError(
                f"{VARIABLE}={work}: there is no folder {folder}, so our own code would be "
                "tested; begin with `course start lab1`"
            )
        os.environ[VARIABLE] = str(folder)
    elif config.getoption("--gradescope"):
        raise pytest.UsageError(
            f"--gradescope grades a learner's folder: set {VARIABLE}, for example {VARIABLE}=work"
        )
    for given in config.getoption("--exercise"):
        if fault := _fault(config, given):
            raise pytest.UsageError(f"--exercise: {fault}")
    if work or config.getoption("--exercise-report"):
        from common.errors import InputError
        from common.exercises.pytest_grader import Grader

        try:
            catalog(config)
        except InputError as error:
            raise pytest.UsageError(str(error)) from error
        grader = Grader(config, Path(os.environ[VARIABLE]) if work else None)
        config.pluginmanager.register(grader, "exercise-grader")


def catalog(config: pytest.Config) -> list[Entry]:
    """The exercises of the repository under test, read once."""
    if CATALOG not in config.stash:
        from common.exercises.catalog import discover

        config.stash[CATALOG] = discover(config.rootpath)
    return config.stash[CATALOG]


def exercise_of(item: pytest.Item) -> str | None:
    """The exercise a collected test grades, or None."""
    return item.stash.get(EXERCISE, None)


def _fault(config: pytest.Config, given: str) -> str:
    """Why ``given`` is no exercise of this repository; empty when it is one."""
    from common.errors import InputError
    from common.exercises.catalog import find_exercise

    try:
        find_exercise(catalog(config), given)
    except InputError as error:
        return str(error)
    return ""


def _read_mark(item: pytest.Item) -> None:
    marker = item.get_closest_marker("exercise")
    if marker is None:
        return
    if len(marker.args) != 1 or marker.kwargs or not isinstance(marker.args[0], str):
        item.stash[FAULT] = "write @pytest.mark.exercise('5.1')"
    elif fault := _fault(item.config, marker.args[0]):
        item.stash[FAULT] = fault
    else:
        item.stash[EXERCISE] = marker.args[0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        _read_mark(item)
    chosen = config.getoption("--exercise")
    if chosen:
        left_out = [item for item in items if exercise_of(item) not in chosen]
        items[:] = [item for item in items if exercise_of(item) in chosen]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
    places = [at for at, item in enumerate(items) if exercise_of(item)]
    if places:
        from common.exercises.catalog import order

        # Only the places of exercise tests change hands: shared fixtures of the others stay put.
        moved = sorted(
            (items[at] for at in places), key=lambda item: order(exercise_of(item) or "0.0")
        )
        for at, item in zip(places, moved):
            items[at] = item


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if FAULT in item.stash:
        pytest.fail(item.stash[FAULT], pytrace=False)
    needed = max(
        (count for name, count in NEEDED_GPUS.items() if item.get_closest_marker(name)), default=0
    )
    if not needed:
        return
    import torch

    present = torch.cuda.device_count()
    if present < needed:
        reason = f"needs {needed} NVIDIA GPU(s), this machine has {present}"
        if os.environ.get(REQUIRE_GPU) == "1":
            pytest.fail(f"{reason}, and {REQUIRE_GPU}=1 asks for it", pytrace=False)
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True, specname="pytest_runtest_setup")
def pytest_wait_in_setup(item: pytest.Item) -> Generator[None, None, None]:
    """A fixture of a module raises again for every test that asks for it: look at each set-up."""
    with _waiting_for_exercises(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with _waiting_for_exercises(item):
        return (yield)


@contextmanager
def _waiting_for_exercises(item: pytest.Item) -> Iterator[None]:
    """In a student's repository a test of no exercise waits for those it needs, and says so."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        if exercise_of(item) or not in_student_repository():
            raise
        from common.exercises.unsolved import unsolved

        if (needed := unsolved(error)) is None:
            raise
        pytest.skip(f"needs exercise {needed}, which is not solved yet")
