"""The experiment's file: what is written there is what runs, and nothing else is accepted."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.errors import InputError
from labs.lab6_online_eval.experiment import Kind, Looks, Role, read_experiment

EXAMPLE = Path(__file__).parents[2] / "labs/lab6_online_eval/experiments/new_ranker.toml"


def test_the_example_says_what_the_lab_runs() -> None:
    """Two arms, success metrics and guardrails, each with the kind that its analysis needs."""
    experiment = read_experiment(EXAMPLE)
    assert [arm.name for arm in experiment.arms] == ["ease", "discovery"]
    assert experiment.weights == (0.5, 0.5)
    assert experiment.start == datetime(2026, 3, 2, tzinfo=UTC)
    assert experiment.looks is Looks.ONCE
    by_role = {role: [m.name for m in experiment.metrics if m.role is role] for role in Role}
    assert by_role[Role.SUCCESS] == ["clicks", "clicks_per_session"]
    assert len(by_role[Role.GUARDRAIL]) == 3
    p99 = experiment.metrics[2]
    assert (p99.kind, p99.quantile, p99.margin) == (Kind.QUANTILE, 0.99, 0.05)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "ease"\nweight = 0.5', 'name = "ease"\nweight = "half"', r"arms\[0\]\.weight"),
        ('name = "ease"\nweight = 0.5', 'name = "ease"\nweight = 0.6', "must sum to 1, not 1.1"),
        ('name = "ease"\nweight = 0.5', 'name = "ease"\nweight = nan', "weight = nan must be in"),
        ('name = "ease"\nweight = 0.5', 'name = "ease"\nweight = 0', r"weight = 0.* must be in"),
        ('name = "ease"', 'name = "discovery"', "must have different names"),
        ("days = 14", "days = 14.5", "days = 14.5: it should be a valid integer"),
        ("days = 14", "days = true", "days = True: it should be a valid integer"),
        ("days = 14", "weeks = 2", "days is missing; weeks = 2 is unknown; known are name"),
        ("00:00:00Z", "00:00:00", "must say its time zone"),
        ("start = 2026-03-02T00:00:00Z", "start = 3", "start = 3: it should be a valid datetime"),
        ('looks = "once"', 'looks = "often"', "'once', 'always' or 'planned'"),
        ("alpha = 0.05", "alpha = inf", "alpha = inf must be in"),
        ("range = [0.0, 0.9]", "range = [0.9, 0.0]", "0 <= low < high <= 1"),
        ("quantile = 0.99\n", "", "p99_latency_ms: quantile = None is what a quantile needs"),
        ("margin = 0.05", "allowance = 0.05", r"metrics\[2\]\.allowance = 0.05 is unknown"),
        ('event = "latency_ms"', 'event = " "', "event = ' ' must not be empty"),
        ("power = 0.8", "power = 0.8\npower = 0.9", "is no experiment file"),
    ],
)
def test_a_bad_value_is_named_with_file_key_and_limit(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    """The author of a file reads one line and knows what to change."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "broken.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_experiment(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no experiment file"):
        read_experiment(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no experiment file"):
        read_experiment(tmp_path / "binary.toml")


def test_another_time_zone_is_the_same_moment_in_utc(tmp_path: Path) -> None:
    path = tmp_path / "zone.toml"
    text = EXAMPLE.read_text(encoding="utf-8").replace("00:00:00Z", "02:00:00+02:00")
    path.write_text(text, encoding="utf-8")
    assert read_experiment(path).start == datetime(2026, 3, 2, tzinfo=UTC)
    assert read_experiment(path).start.utcoffset() == read_experiment(EXAMPLE).start.utcoffset()
