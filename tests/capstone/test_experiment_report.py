"""The report and the figures: what was measured, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from capstone import figures_experiment
from capstone.experiment_report import plan_words, write_report
from capstone.experiment_study import ExperimentStudy, metrics
from capstone.rollout import read_plan
from tests.capstone.small_world import small_study


@pytest.fixture(scope="module")
def study() -> ExperimentStudy:
    return small_study()


def report(folder: Path, measured: dict[str, Any]) -> str:
    path = write_report(
        folder / "report.md", metrics=measured, bundle_version="b1", commit="c1", date="2026-03-02"
    )
    return path.read_text(encoding="utf-8")


def test_every_number_is_one_that_was_measured(study: ExperimentStudy, tmp_path: Path) -> None:
    """A number that a report invents cannot be told from one that was measured."""
    rows = metrics(study)
    measured = {name: {"value": value, "unit": unit, "n": n} for name, value, unit, n in rows}
    text = report(tmp_path, measured)
    power = f"{study.designs.sensitivity.ab_sessions:,}" if study.designs.sensitivity else ""
    assert power in text
    assert f"{study.rollouts['bait'].hides:.4g}" in text
    changed = {
        name: metric | {"value": 777.25} if name == "rollout.bait.hides" else metric
        for name, metric in measured.items()
    }
    assert "777.2" in report(tmp_path, changed)


def test_what_was_not_measured_is_said_to_be_so(tmp_path: Path) -> None:
    """An empty cell reads as zero, or as fine; and a refused estimate has no number at all."""
    text = report(tmp_path, {})
    assert text.count("not measured") > 40
    body = text.split("## The A/B test")[1].split("| metric |")[1].split("##")[0]
    assert not re.search(r"\d\.\d", body.replace("95 %", "")), body
    refused = {"value": None, "unit": "simulated", "reason": "no support", "how": ""}
    text = report(tmp_path, {"reconciled.ips.whole": refused})
    assert "not measured (no support)" in text


def test_the_report_says_what_is_simulated_and_by_which_rule(tmp_path: Path) -> None:
    """MovieLens has no exposures; a reader must not take these effects for people's."""
    text = report(tmp_path, {})
    assert "**simulated**" in text
    assert plan_words(read_plan()) in text
    assert "shadow (300 feeds, 10 looks at most), then 5 %" in text


def test_every_figure_draws_the_study(study: ExperimentStudy) -> None:
    """A figure that fails does so at the end of a long run."""
    drawn = {
        "rollouts": figures_experiment.draw_rollouts(study.rollouts),
        "characteristics": figures_experiment.draw_characteristics(study.rollouts),
        "aa": figures_experiment.draw_aa(study.aa),
        "reconciliation": figures_experiment.draw_reconciliation(study),
    }
    titles = [axes.get_title() for axes in drawn["rollouts"].axes]
    assert any("harmful: rolled back" in title for title in titles), titles
    for name, figure in drawn.items():
        figure.canvas.draw()
        assert all(axes.has_data() for axes in figure.axes), name
