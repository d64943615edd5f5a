"""results.json: one schema, whole or absent, and nothing green that was not measured."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.results import (
    OPERATORS,
    Claim,
    Metric,
    Results,
    RunFolder,
    commit,
    plain,
    write_json,
)

SCHEMA = json.loads(Path(__file__).with_name("results.schema.json").read_text())
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def violations(value: Any, schema: dict[str, Any], at: str = "$") -> list[str]:
    """What ``value`` violates of the part of JSON Schema that results.schema.json uses."""
    known = {"$schema", "title", "type", "const", "enum", "pattern", "minLength", "minimum"}
    known |= {"maximum", "exclusiveMinimum", "required", "properties", "propertyNames", "items"}
    known |= {"additionalProperties", "minItems", "maxItems", "if", "then", "else"}
    assert set(schema) <= known, f"the check knows no {set(schema) - known}"
    found: list[str] = []
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(TYPES[kind](value) for kind in kinds):
        return [f"{at}: {value!r} is no {' or '.join(kinds)}"]
    if "const" in schema and value != schema["const"]:
        found.append(f"{at}: {value!r} is not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is none of {schema['enum']}")
    if TYPES["number"](value):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            found.append(f"{at}: {value} is out of range")
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            found.append(f"{at}: {value} is too small")
    if isinstance(value, str):
        if not re.search(schema.get("pattern", ""), value):
            found.append(f"{at}: {value!r} does not match {schema['pattern']}")
        if len(value) < schema.get("minLength", 0):
            found.append(f"{at}: {value!r} is too short")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{at}: {len(value)} items")
        for index, item in enumerate(value):
            found += violations(item, schema.get("items", {}), f"{at}[{index}]")
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"{at}: no {key}" for key in schema.get("required", []) if key not in value]
        for key, item in value.items():
            found += violations(key, schema.get("propertyNames", {}), f"{at} key {key}")
            rest = schema.get("additionalProperties", {})
            if key in properties or isinstance(rest, dict):
                found += violations(item, properties.get(key, rest), f"{at}.{key}")
            elif rest is False:
                found.append(f"{at}: unknown key {key}")
    if "if" in schema:
        branch = "else" if violations(value, schema["if"], at) else "then"
        found += violations(value, schema.get(branch, {}), at)
    return found


@dataclass(frozen=True)
class Config:
    rates: tuple[float, ...] = (0.1, 0.2)
    where: Path = Path("here")


def results(**changes: Any) -> Results:
    values: dict[str, Any] = {
        "lab": "lab9_tiny",
        "scale": "smoke",
        "device": "cpu",
        "procs": 2,
        "seed": 0,
        "mine": False,
        "config": Config(),
        "hardware": {"cpu": "x", "cores": 2, "memory_gib": 7.5, "gpus": []},
        "versions": {"python": "3.11.7"},
    }
    return Results(**(values | changes))


CLAIMS = (
    Claim("T.yes", "a above 0.5", "area.a", ">", 0.5),
    Claim("T.no", "a below 0.5", "area.a", "<", 0.5),
    Claim("T.open", "a over ten million", "area.a", ">", 0.5),
    Claim("T.absent", "b", "area.b", "==", 1),
    Claim("T.none", "c", "area.c", "<=", 1),
)


def full() -> dict[str, Any]:
    run = results()
    run.metrics["area.a"] = Metric(0.9, "ratio", n=10, ci95=(0.8, 1.0), how="counted")
    run.metrics["area.c"] = Metric(None, "s", reason="no clock")
    run.unmeasured["T.open"] = "only 10 here"
    run.data.append({"name": "x", "source": "wheel x 1", "sha256": "0" * 64, "rows": 3})
    return json.loads(json.dumps(run.as_json(CLAIMS), allow_nan=False))


def test_the_results_follow_the_schema() -> None:
    assert violations(full(), SCHEMA) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["schema"], 2),
        (["scale"], "huge"),
        (["procs"], True),
        (["started_at"], "2026-11-23 09:00"),
        (["surplus"], 1),
        (["metrics", "area.a", "ci95"], [1.0]),
        (["metrics", "area.a", "value"], None),
        (["metrics", "noarea"], {"value": 1, "unit": "s"}),
        (["deliverables", 0, "measured"], None),
        (["deliverables", 0, "reason"], "green, and yet with a reason"),
        (["deliverables", 2, "reason"], ""),
        (["deliverables", 2, "passed"], True),
        (["data", 0, "sha256"], "abc"),
    ],
)
def test_the_schema_rejects_what_the_contract_forbids(path: list[Any], value: Any) -> None:
    broken = copy.deepcopy(full())
    target = broken
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    assert violations(broken, SCHEMA), f"{path} = {value!r} went through"


def test_outcomes_are_true_false_or_null_with_a_reason() -> None:
    outcomes = {row["id"]: (row["passed"], row["reason"]) for row in full()["deliverables"]}
    assert outcomes == {
        "T.yes": (True, ""),
        "T.no": (False, ""),
        "T.open": (None, "only 10 here"),
        "T.absent": (None, "area.b was not measured"),
        "T.none": (None, "no clock"),
    }
    open_row = next(row for row in full()["deliverables"] if row["id"] == "T.open")
    assert open_row["measured"] == 0.9, "the figure that was measured stays"


numbers = st.one_of(
    st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False, width=32)
)
metrics = st.one_of(
    st.none(),
    st.builds(Metric, value=numbers, unit=st.just("s")),
    st.builds(Metric, value=st.none(), unit=st.just("s"), reason=st.text(min_size=1)),
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    op=st.sampled_from(sorted(OPERATORS)),
    target=numbers,
    metric=metrics,
    reason=st.one_of(st.none(), st.text(min_size=1)),
)
def test_nothing_is_judged_without_a_measurement_or_against_a_reason(
    op: Any, target: float, metric: Metric | None, reason: str | None
) -> None:
    """A claim that could turn green without a measurement would make every scorecard worthless."""
    row = Claim("T", "claim", "area.a", op, target).judge(metric, reason)
    measured = metric is not None and metric.value is not None
    assert (row["passed"] is None) == (not measured or reason is not None)
    assert (row["passed"] is None) == bool(row["reason"])
    if row["passed"] is not None:
        assert row["passed"] is OPERATORS[op](row["measured"], target)
    assert (
        violations(json.loads(json.dumps(row)), SCHEMA["properties"]["deliverables"]["items"]) == []
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_rejected(value: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Metric(value, "s")
    with pytest.raises(ValueError, match="must be finite"):
        Metric(1.0, "s", ci95=(0.0, value))


def test_a_missing_value_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        Metric(None, "s")


def test_a_reason_for_a_claim_that_does_not_exist_is_an_error() -> None:
    run = results()
    run.unmeasured["T.typo"] = "reason"
    with pytest.raises(ValueError, match=r"T\.typo"):
        run.as_json(CLAIMS)


def test_the_configuration_becomes_plain_json() -> None:
    assert plain({"c": Config(), 3: [Path("x")]}) == {
        "c": {"rates": [0.1, 0.2], "where": "here"},
        "3": ["x"],
    }


def test_the_commit_is_that_of_the_code_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = commit()
    monkeypatch.chdir(tmp_path)
    assert commit() == here
    assert re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?|v?\d.*|unknown", here)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == "unknown", "no git here"


def test_json_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
    write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text()) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_that_does_not_fit_the_disk_leaves_the_old_file(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path; from common.results import write_json\n"
        "write_json(Path('a.json'), {'x': 1})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_json(Path('a.json'), {'x': 'y' * 5000})\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "File too large" in answer.stderr
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def visible(package: Path) -> list[str]:
    return sorted(path.name for path in package.iterdir() if not path.name.startswith("."))


def test_a_folder_appears_only_when_published_and_latest_follows(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "lab9_tiny", "smoke", NOON)
    package = tmp_path / "lab9_tiny"
    assert visible(package) == []
    final = folder.publish()
    assert final == package / "20261123T120000Z-smoke"
    assert os.readlink(package / "latest") == final.name, "relative: the tree can be moved"
    assert sorted(os.listdir(package)) == ["20261123T120000Z-smoke", "latest"]


def test_two_runs_of_one_second_both_stay_and_latest_is_the_second(tmp_path: Path) -> None:
    names = []
    for text in ("first", "second", "third"):
        folder = RunFolder(tmp_path, "lab9_tiny", "smoke", NOON)
        (folder.partial / "what").write_text(text)
        names.append(folder.publish().name)
    stamp = "20261123T120000Z-smoke"
    assert names == [stamp, f"{stamp}-2", f"{stamp}-3"]
    package = tmp_path / "lab9_tiny"
    assert (package / stamp / "what").read_text() == "first"
    assert (package / "latest" / "what").read_text() == "third"


def _publish(out: Path) -> str:
    folder = RunFolder(out, "lab9_tiny", "smoke", NOON)
    (folder.partial / "pid").write_text(str(os.getpid()))
    return folder.publish().name


def test_runs_that_end_at_the_same_moment_do_not_take_each_others_name(tmp_path: Path) -> None:
    with get_context("fork").Pool(4) as pool:
        names = pool.map(_publish, [tmp_path] * 40, chunksize=1)
    assert len(set(names)) == 40
    package = tmp_path / "lab9_tiny"
    assert visible(package) == sorted([*names, "latest"])
    assert all((package / name / "pid").exists() for name in names)


def test_what_a_killed_run_left_is_removed_and_what_a_live_one_writes_is_kept(
    tmp_path: Path,
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    package = tmp_path / "lab9_tiny"
    abandoned = package / f".20261123T110000Z-smoke.{ended.pid}.partial"
    live = package / f".20261123T110000Z-smoke.{os.getppid()}.partial"
    other = package / ".notes.partial"
    for folder in (abandoned, live, other):
        (folder / "figures").mkdir(parents=True)
    RunFolder(tmp_path, "lab9_tiny", "smoke", NOON).discard()
    assert not abandoned.exists()
    assert live.is_dir()
    assert other.is_dir()


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--out .*file.*: cannot write there"):
        RunFolder(tmp_path / "file", "lab9_tiny", "smoke", NOON)
    with pytest.raises(InputError, match="cannot write there"):
        RunFolder(Path("/proc/nowhere"), "lab9_tiny", "smoke", NOON)


def test_the_results_of_runs_that_were_made_follow_the_schema() -> None:
    """LABS_CHECK_RESULTS=runs/capstone/latest/results.json checks that run too."""
    for path in filter(None, os.environ.get("LABS_CHECK_RESULTS", "").split(":")):
        assert violations(json.loads(Path(path).read_text()), SCHEMA) == [], path
