"""Where a run's time goes: ONNX Runtime's profile, read into time by operator.

A session with profiling on writes one JSON file of events in the format of Chrome's trace viewer
(``chrome://tracing``, Perfetto). Events nest: a run holds the executor, which holds nodes, and a
node with a body (If, Loop) holds the nodes of its body.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError, require
from common.exercises import exercise

if TYPE_CHECKING:
    from labs.lab4_model_serving.ort_options import SessionSettings
    from labs.lab4_model_serving.parity import Arrays

KERNEL = "_kernel_time"
RUN = "model_run"


@exercise(
    "4.5",
    points=5,
    title="Exclusive time by operator, from a profile",
    hint="Which events are operators, and which hold other events? In what unit is dur? Sort by "
    "start and keep a stack for each thread: whose time is a child's time taken from?",
)
def exclusive_times(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds that each operator itself took, summed over all its events.

    An operator's exclusive time is its own duration less that of the kernels that ran directly
    inside it, on the same thread. So the times of all operators sum to the time in which some
    kernel ran, and nothing is counted twice.

    Parameters
    ----------
    events
        Of the profile's JSON, in any order. A kernel is an event with ``cat == "Node"`` and a
        ``name`` that ends in ``"_kernel_time"``; its operator is ``args["op_name"]``. ``ts``
        (start) and ``dur`` are in microseconds, ``tid`` is the thread. On one thread two kernels
        are apart, or one lies inside the other. Of two with the same start the longer is outside.

    Returns
    -------
    dict
        Operator to seconds, the largest first.
    """
    # BEGIN SOLUTION
    kernels = [
        event
        for event in events
        if event.get("cat") == "Node" and str(event["name"]).endswith(KERNEL)
    ]
    microseconds: Counter[str] = Counter()
    stacks: dict[Any, list[tuple[float, str]]] = {}  # thread to (end, operator) of open kernels
    for event in sorted(kernels, key=lambda each: (each["ts"], -each["dur"])):
        operator, stack = event["args"]["op_name"], stacks.setdefault(event["tid"], [])
        while stack and stack[-1][0] <= event["ts"]:
            stack.pop()
        microseconds[operator] += event["dur"]
        if stack:
            microseconds[stack[-1][1]] -= event["dur"]
        stack.append((event["ts"] + event["dur"], operator))
    return {operator: each / 1e6 for operator, each in microseconds.most_common()}
    # END SOLUTION


@dataclass(frozen=True)
class Profile:
    """Seconds a run, by operator and in all, means over ``runs`` runs without the first ones.

    ``run_s`` includes what no kernel accounts for: the executor, allocations, the call itself.
    ``kernels`` counts an operator's kernels a run, ``placement`` kernels a run by provider.
    """

    name: str
    runs: int
    run_s: float
    by_operator: dict[str, float]
    kernels: dict[str, float]
    placement: dict[str, float]

    @property
    def overhead_s(self) -> float:
        """Seconds a run outside every kernel."""
        return max(0.0, self.run_s - sum(self.by_operator.values()))


def read_events(path: Path) -> list[dict[str, Any]]:
    """Events of a profile.

    Raises
    ------
    InputError
        No file, or no profile of ONNX Runtime.
    """
    if not path.is_file():
        raise InputError(f"no profile at {path}; end_profiling() names the file it wrote")
    try:
        events = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: was the session closed before? {error}") from error
    if not isinstance(events, list) or not all(isinstance(each, dict) for each in events):
        raise InputError(f"{path} is no ONNX Runtime profile: it must hold a list of events")
    return events


def profile_of(events: Sequence[Mapping[str, Any]], *, warmup: int = 0, name: str = "") -> Profile:
    """Read a profile, leaving out the first ``warmup`` runs.

    Raises
    ------
    InputError
        No run is left.
    """
    require(warmup >= 0, "warmup", warmup, "must be >= 0")
    runs = sorted((each for each in events if each.get("name") == RUN), key=lambda each: each["ts"])
    require(len(runs) > warmup, "runs in the profile", len(runs), f"must be > warmup = {warmup}")
    counted = runs[warmup:]
    inside = [each for each in events if each.get("ts", 0) >= counted[0]["ts"]]
    kernels: Counter[str] = Counter()
    placement: Counter[str] = Counter()
    for each in inside:
        if each.get("cat") == "Node" and str(each["name"]).endswith(KERNEL):
            kernels[each["args"]["op_name"]] += 1
            placement[each["args"].get("provider", "unknown")] += 1
    n = len(counted)
    return Profile(
        name=name,
        runs=n,
        run_s=sum(each["dur"] for each in counted) / 1e6 / n,
        by_operator={key: each / n for key, each in exclusive_times(inside).items()},
        kernels={key: each / n for key, each in kernels.most_common()},
        placement={key: each / n for key, each in placement.most_common()},
    )


def profile_model(
    path: Path,
    inputs: Sequence[Arrays],
    folder: Path,
    *,
    name: str = "",
    warmup: int = 5,
    settings: SessionSettings | None = None,
) -> Profile:
    """Run a model over ``inputs`` with profiling on, and read the profile.

    Parameters
    ----------
    inputs
        One batch a run; the first ``warmup`` are run but not counted.
    folder
        Keeps the JSON, ``<stem of path>_<time>.json``, for a trace viewer.

    Raises
    ------
    InputError
        Not more batches than ``warmup``, or what :func:`ort_options.open_session` refuses.
    """
    from labs.lab4_model_serving.ort_options import SessionSettings, open_session, session_options

    require(len(inputs) > warmup, "inputs", len(inputs), f"must be more than warmup = {warmup}")
    settings = settings or SessionSettings()
    options = session_options(settings)
    options.enable_profiling = True
    folder.mkdir(parents=True, exist_ok=True)
    options.profile_file_prefix = str(folder / path.stem)
    session = open_session(path, settings, options=options)
    for each in inputs:
        session.run(None, dict(each))
    return profile_of(read_events(Path(session.end_profiling())), warmup=warmup, name=name)
