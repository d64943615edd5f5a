"""The lab from the command line: its smallest scale, and options that are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.data import load
from common.data.fetch import cache_folder
from labs.lab5_distillation.claims import CLAIMS

ROOT = Path(__file__).resolve().parents[2]
LAB = "lab5_distillation"
AREAS = ("student.two_layers", "student.narrow", "student.two_layers_post_training")
SHOWN = ("size", "parity", "gradient", "resume")


def run_lab(out, *options, **env):
    command = [sys.executable, "-m", "labs.lab5_distillation", "--out", str(out), *options]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=os.environ | env,
    )


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """The cache, but for the students of runs under way: those of other runs are not ours."""
    load("minilm")
    own = tmp_path_factory.mktemp("cache")
    for entry in cache_folder().iterdir():
        if entry.name != LAB:
            (own / entry.name).symlink_to(entry)
    return own


@pytest.fixture(scope="module")
def finished(tmp_path_factory, own_cache):
    """A smoke run's folder and its results."""
    out = tmp_path_factory.mktemp("lab5")
    done = run_lab(out, "--scale", "smoke", LABS_CACHE=str(own_cache))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = out / "lab5_distillation/latest"
    return folder, json.loads((folder / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_student_is_measured_beside_the_same_one_without_a_teacher(finished):
    """Accuracy, retention, agreement, size, speed; in float32, in INT8, and alone."""
    folder, results = finished
    metrics = {name: entry["value"] for name, entry in results["metrics"].items()}
    assert metrics["texts.train"] == 300
    assert metrics["texts.test"] == 200
    assert metrics["teacher.accuracy"] > metrics["texts.majority_accuracy"] + 0.05
    for area in (*AREAS, "baseline.two_layers", "student.narrow_fp32"):
        for name in ("accuracy", "retention", "agreement", "size_mb", "throughput_ratio"):
            assert metrics[f"{area}.{name}"] > 0, f"{area}.{name}"
        kept = metrics[f"{area}.accuracy"] / metrics["teacher.accuracy"]
        assert metrics[f"{area}.retention"] == pytest.approx(kept)
        low, high = results["metrics"][f"{area}.accuracy"]["ci95"]
        assert low <= metrics[f"{area}.accuracy"] <= high
    gain = metrics["student.narrow_fp32.accuracy"] - metrics["baseline.narrow.accuracy"]
    assert metrics["gain.narrow"] == pytest.approx(gain)
    parts = metrics["gain.narrow.start"] + metrics["gain.narrow.answers"]
    assert parts == pytest.approx(gain), "the start and the answers are all that the teacher gives"
    assert metrics["gain.smallest_low"] == results["metrics"]["gain.narrow"]["ci95"][0]
    assert {"aware.gain", "aware.gain_over_untrained"} <= set(metrics)
    assert metrics["student.two_layers.size_mb"] < metrics["student.two_layers_fp32.size_mb"] / 3
    assert metrics["student.narrow.params"] < metrics["student.two_layers.params"]
    assert [entry["name"] for entry in results["data"]] == ["docstrings"]
    for name in ("frontier", "frontier_ms", "gains", "speed", "reliability", "classes"):
        assert (folder / f"figures/{name}.png").stat().st_size > 0
    assert "two_layers" in (folder / "decision.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_the_scale_can_show_passes_and_the_rest_has_a_reason(finished):
    """Three hundred texts say nothing about what distillation gains; the tools are right anyway."""
    _, results = finished
    claims = {entry["id"]: entry for entry in results["deliverables"]}
    assert set(claims) == {claim.id for claim in CLAIMS}
    for name in SHOWN:
        assert claims[f"L5.{name}"]["passed"] is True, claims[f"L5.{name}"]
    assert claims["L5.speed"]["passed"] is not None
    for name in ("retention", "bert", "teacher", "two_layers", "one_layer", "gain", "aware"):
        assert claims[f"L5.{name}"]["passed"] is None
        assert claims[f"L5.{name}"]["reason"]
    assert "--teacher bert-large-uncased" in claims["L5.bert"]["reason"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_completed_run_leaves_no_student_in_the_cache(finished, own_cache):
    """What is kept for a run that was stopped goes when it completes."""
    assert list((own_cache / LAB).iterdir()), "the teacher stays"
    assert not list((own_cache / LAB / "unfinished").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--alpha", "3"), "alpha = 3.0 must be from 0 to 1; try 1.0"),
        (("--train", "there_is_no.csv", "--test", "neither.csv"), "there_is_no.csv is not a file"),
        (("--max-tokens", "600"), "max_tokens = 600 must be from 3 to 512"),
        (("--few-labels", "5000"), "few_labels = 5000 must be at most"),
        (("--students", "narrow", "--methods", "mse"), "the first of --students is narrow"),
    ],
)
def test_a_bad_option_is_one_clear_error(tmp_path, options, message):
    done = run_lab(tmp_path, "--scale", "smoke", *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*/*"))


def test_a_teacher_from_the_hub_without_the_hub_is_one_clear_error(tmp_path):
    """What was tried, and the two ways to go on."""
    done = run_lab(
        tmp_path,
        *("--scale", "smoke", "--teacher", "bert-large-uncased"),
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path / "hub"),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "bert-large-uncased" in done.stderr
    assert "minilm" in done.stderr
    assert "Traceback" not in done.stderr
