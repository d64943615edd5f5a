"""A stopped run's students wait for it, and processes that run the same share the work."""

import multiprocessing as mp
import time
from dataclasses import replace

import pytest
import torch

from labs.lab5_distillation.config import SCALES
from labs.lab5_distillation.unfinished import Job, Unfinished, key_of
from tests.lab5_distillation.conftest import tiny_classifier


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABS_CACHE", str(tmp_path / "cache"))


def trained(value, log=None):
    """A training that sets the head's bias, and remembers that it was called."""

    def train(checkpoint):
        student = tiny_classifier(layers=1)
        torch.nn.init.constant_(student.head.bias, value)
        checkpoint.write_text("half way")
        if log is not None:
            log.append(value)
        return student

    return train


def jobs(log=None, n=3):
    return [
        Job(f"s{i}", lambda: tiny_classifier(layers=1, seed=9), trained(i, log)) for i in range(n)
    ]


def biases(unfinished, work):
    return {i: float(s.head.bias[0]) for i, s in unfinished.students(work)}


def test_what_was_trained_before_the_stop_is_not_trained_again():
    """The same weights come back, into a model of the same architecture, in evaluation mode."""
    first = []
    assert biases(Unfinished("a"), jobs(first, 2)) == {0: 0.0, 1: 1.0}
    again = []
    assert biases(Unfinished("a"), jobs(again, 3)) == {0: 0.0, 1: 1.0, 2: 2.0}
    assert (first, again) == ([0, 1], [2])


def test_a_training_that_fails_leaves_its_checkpoint_and_no_student():
    """The next run goes on from the checkpoint; a half-written student would be taken for one."""
    unfinished = Unfinished("a")

    def fails(checkpoint):
        checkpoint.write_text("half way")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        unfinished.student(Job("s", tiny_classifier, fails))
    assert (unfinished.folder / "s.checkpoint").read_text() == "half way"
    assert not list(unfinished.folder.glob("*.safetensors"))
    unfinished.student(Job("s", lambda: tiny_classifier(layers=1), trained(1.0)))
    assert not (unfinished.folder / "s.checkpoint").exists()


def test_a_completed_run_keeps_nothing():
    """The next run trains and measures anew."""
    unfinished = Unfinished("a")
    biases(unfinished, jobs())
    unfinished.discard()
    assert not unfinished.folder.exists()
    log = []
    biases(Unfinished("a"), jobs(log))
    assert log == [0, 1, 2]


def test_the_last_of_several_runs_clears_up():
    """A run that still needs the students finds them after another has completed."""
    one, other = Unfinished("a"), Unfinished("a")
    biases(one, jobs())
    one.discard()
    log = []
    assert len(biases(other, jobs(log))) == 3
    assert log == []
    other.discard()
    assert not other.folder.exists()


def _share(cache, queue):
    import os

    os.environ["LABS_CACHE"] = cache
    log = []

    def slow(i):
        inner = trained(i, log)

        def train(checkpoint):
            time.sleep(0.3)
            return inner(checkpoint)

        return train

    work = [Job(f"s{i}", lambda: tiny_classifier(layers=1, seed=9), slow(i)) for i in range(4)]
    found = biases(Unfinished("b"), work)
    queue.put((log, found))


@pytest.mark.slow
def test_two_processes_train_each_student_once_and_both_get_all(tmp_path):
    """Each takes what nobody is training; who is done first waits for the other's."""
    context = mp.get_context("spawn")
    queue = context.Queue()
    both = [context.Process(target=_share, args=(str(tmp_path / "c"), queue)) for _ in range(2)]
    for each in both:
        each.start()
    (one, found), (other, too) = queue.get(timeout=120), queue.get(timeout=120)
    for each in both:
        each.join(30)
    assert sorted(one + other) == [0, 1, 2, 3]
    assert found == too == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}


def test_the_key_names_all_that_decides():
    """Another option, seed, device, data set or line of code is another run."""
    config = SCALES["smoke"]
    base = key_of(config, seed=0, device="cpu", data="x")
    others = [
        key_of(replace(config, temperature=3.0), seed=0, device="cpu", data="x"),
        key_of(config, seed=1, device="cpu", data="x"),
        key_of(config, seed=0, device="cuda", data="x"),
        key_of(config, seed=0, device="cpu", data="y"),
    ]
    assert len({base, *others}) == 5
    assert base == key_of(config, seed=0, device="cpu", data="x")


def test_a_learners_code_is_another_run(tmp_path, monkeypatch):
    """Students of ours must not stand in for those of the learner's loss."""
    config = SCALES["smoke"]
    base = key_of(config, seed=0, device="cpu", data="x")
    folder = tmp_path / "work" / "lab5_distillation"
    folder.mkdir(parents=True)
    (folder / "distillation_loss.py").write_text("# mine")
    monkeypatch.setenv("LABS_WORK", str(tmp_path / "work"))
    assert key_of(config, seed=0, device="cpu", data="x") != base
