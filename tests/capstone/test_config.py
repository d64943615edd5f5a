"""Bad arguments: one clear error, exit status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from capstone.config import STAGES, Config
from common.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def test_stages_run_in_pipeline_order_however_they_are_given() -> None:
    assert Config(stages="export,train").chosen_stages() == ("train", "export")
    assert Config().chosen_stages() == STAGES


@pytest.mark.parametrize("stages", ["nonsense", "train,nonsense", "", ","])
def test_an_unknown_stage_is_refused_with_the_known_ones(stages: str) -> None:
    with pytest.raises(InputError, match="choose from data, world"):
        Config(stages=stages)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", 1.5), ("temperature", 0.0), ("ranker_width", 50), ("candidates", 49),
        ("candidates", 901), ("port", 70000), ("experiment_users", 1), ("n_boot", 99),
        ("student_dropout", 1.0), ("workers", 0), ("workers", 65),
    ],
)  # fmt: skip
def test_a_value_outside_its_limits_is_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=field.replace("_", "-")):
        Config(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--scale", "huge"], "huge"),
        (["--stages", "trian"], "trian"),
        (["--strategy", "ZERO9"], "ZERO9"),
        (["--no-such-option", "1"], "--no-such-option"),
        (["--device", "tpu"], "tpu"),
        (["--temperature", "-1"], "-1"),
    ],
)
def test_the_command_line_answers_with_status_2(
    arguments: list[str], named: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "capstone", "--out", str(tmp_path), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
