"""What the run makes of its logits, with as many seeds as the larger scales have."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from labs.lab5_distillation import report
from labs.lab5_distillation.config import Config
from labs.lab5_distillation.training_stages import ALONE, COPIED, TAUGHT, Trained

N, CLASSES = 200, 5


def answers(right, seed):
    """Logits [N, C] of a model that is right on the given share of the texts."""
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % CLASSES
    chosen = np.where(rng.random(N) < right, labels, (labels + 1) % CLASSES)
    return torch.from_numpy(5 * np.eye(CLASSES, dtype=np.float32)[chosen])


def trained(how, *shares):
    return Trained(how, 10, test=[answers(share, i) for i, share in enumerate(shares)])


class Run:
    """Keeps what is recorded."""

    seed = 0

    def __init__(self):
        self.metrics = {}

    def metric(self, name, value, **rest):
        self.metrics[name] = (value, rest)


MATERIAL = SimpleNamespace(test=SimpleNamespace(labels=np.arange(N) % CLASSES))


def accuracy(found):
    return np.mean([(each.argmax(1).numpy() == MATERIAL.test.labels).mean() for each in found.test])


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_one_teacher_is_compared_with_students_of_several_seeds(tmp_path, seeds):
    """Retention is the mean accuracy of the seeds over that of the one teacher."""
    file = tmp_path / "student.onnx"
    file.write_bytes(b"0" * 2_000_000)
    exported = {"one_layer, int8": SimpleNamespace(path=file)}
    measured = SimpleNamespace(latency=SimpleNamespace(p50_ms=1.5), texts_per_s=900.0)
    ratio = SimpleNamespace(value=6.5, ci95=(6.0, 7.0))
    key = "one_layer, int8"
    speed = SimpleNamespace(single={key: measured}, batched={key: measured}, ratios={key: ratio})
    teacher = answers(0.9, 99)
    students = trained(TAUGHT, *[0.7] * seeds)
    found = report._candidate(
        MATERIAL.test.labels, teacher.numpy(), exported, speed, "one_layer", TAUGHT, "int8", 10,
        students.test,
    )  # fmt: skip
    of_teacher = (teacher.argmax(1).numpy() == MATERIAL.test.labels).mean()
    assert found.accuracy == pytest.approx(accuracy(students))
    assert found.retention == pytest.approx(accuracy(students) / of_teacher)
    assert found.retention_ci95[0] < found.retention < found.retention_ci95[1]
    assert (found.seeds, found.texts, found.size_mb) == (seeds, N, 2.0)


def test_the_start_and_the_answers_are_all_that_the_teacher_gives():
    """The two parts of the last student's gain add up; the first has its gain alone."""
    arms = {
        "two_layers": {ALONE: trained(ALONE, 0.7), TAUGHT: trained(TAUGHT, 0.8)},
        "one_layer": {
            ALONE: trained(ALONE, 0.5, 0.55),
            COPIED: trained(COPIED, 0.6, 0.6),
            TAUGHT: trained(TAUGHT, 0.65, 0.7),
        },
    }
    run, config = Run(), Config()
    found = report.gains(run, config, MATERIAL, arms, {})
    value = {name: metric[0] for name, metric in run.metrics.items()}
    last = arms["one_layer"]
    assert value["gain.one_layer"] == pytest.approx(accuracy(last[TAUGHT]) - accuracy(last[ALONE]))
    parts = value["gain.one_layer.start"] + value["gain.one_layer.answers"]
    assert parts == pytest.approx(value["gain.one_layer"])
    assert value["gain.smallest_low"] == found["one_layer"].ci95[0]
    assert "gain.two_layers.start" not in value


def test_a_method_is_compared_with_the_baseline_and_with_plain_distillation():
    """By the seeds that both have; what beats the labels need not beat the logits."""
    arms = {
        "two_layers": {
            ALONE: trained(ALONE, 0.5, 0.5),
            COPIED: trained(COPIED, 0.6, 0.6),
            TAUGHT: trained(TAUGHT, 0.8, 0.8),
        }
    }
    run = Run()
    methods = {"mse": trained("mse", 0.7, 0.7)}
    report.gains(run, Config(students=("two_layers",)), MATERIAL, arms, methods)
    assert run.metrics["methods.mse.gain"][0] > 0.1
    assert run.metrics["methods.mse.over_logits"][0] < -0.02
    assert run.metrics["methods.mse.accuracy"][0] == pytest.approx(accuracy(methods["mse"]))
