"""Training with the rounding on: what it repairs, and the file that comes of it."""

from __future__ import annotations

import pytest
import torch

from common.errors import InputError, RunError
from labs.lab5_distillation import fake_quantization, quantization_aware, recipe
from labs.lab5_distillation.fake_quantization import INT8, Scheme, prepare, strip, weight_only
from labs.lab5_distillation.objectives import CachedTeacher
from labs.lab5_distillation.quantization_aware import BitsStudy, QuantizedStudent
from tests.lab5_distillation.conftest import make_texts, tiny_classifier
from tests.lab5_distillation.exported import model

RECIPE = recipe.Recipe(epochs=6, rate=3e-3, head_rate=3e-3, batch_size=16)


@pytest.fixture(scope="module")
def trained():
    """A student that knows the synthetic texts, and what it answers: its own teacher."""
    texts, student = make_texts(160), tiny_classifier(1)
    recipe.train(recipe.supervised(student), texts, RECIPE.but(epochs=12))
    student.eval()
    return student, recipe.cached(student, texts), texts


def apart(student, teacher, texts):
    return quantization_aware.divergence(teacher.logits, recipe.logits(student, texts))


def test_at_two_bits_awareness_repairs_what_rounding_broke(trained):
    """Weights of -1, 0 and 1 times a scale: rounded after training the student has forgotten much,
    whatever the scales; trained under its rounding it comes back near its teacher, and as many
    steps without rounding do not help.
    """
    student, teacher, texts = trained
    before = min(
        apart(prepare(student, weight_only(2, scales)), teacher, texts)
        for scales in ("maximum", "least_error")
    )
    continued = quantization_aware.continued_distillation(student, teacher, texts, RECIPE)
    control = apart(prepare(continued, weight_only(2, "least_error")), teacher, texts)
    aware = quantization_aware.quantization_aware_distillation(
        student, teacher, texts, RECIPE, scheme=weight_only(2, "learned")
    )
    after = apart(aware, teacher, texts)
    assert after < before / 2, f"divergence {after:.3f} aware, {before:.3f} rounded after"
    assert after < control / 2, f"divergence {after:.3f} aware, {control:.3f} continued"


def test_training_leaves_the_given_student_alone(trained):
    """It is the baseline of the comparison."""
    student, teacher, texts = trained
    kept = {name: each.clone() for name, each in student.named_parameters()}
    one = RECIPE.but(epochs=1)
    aware = quantization_aware.quantization_aware_distillation(student, teacher, texts, one)
    quantization_aware.continued_distillation(student, teacher, texts, one)
    assert all(torch.equal(kept[name], each) for name, each in student.named_parameters())
    name = "encoder.encoder.layer.0.attention.self.query.weight"
    moved = (strip(aware).get_parameter(name) - kept[name]).abs().max()
    assert moved > 1e-4, f"the weights behind the rounding moved by {float(moved)}"


def test_divergence_is_zero_for_the_same_answers_only():
    """KL by its definition on two classes."""
    p, q = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0986123]])  # 1/2, 1/2 and 1/4, 3/4
    assert quantization_aware.divergence(p, p) == pytest.approx(0, abs=1e-6)
    expected = 0.5 * torch.tensor([2.0, 2 / 3]).log().sum().item()
    assert quantization_aware.divergence(p, q) == pytest.approx(expected, rel=1e-5)


def test_a_student_without_a_file_is_refused(tmp_path):
    """Each scheme that ONNX Runtime cannot run says so, before anything is exported."""
    with pytest.raises(InputError, match="not prepared"):
        quantization_aware.write_quantized(model(), tmp_path / "x.onnx")
    for scheme in (Scheme(weight_bits=4), Scheme(scales="learned")):
        with pytest.raises(InputError, match="dynamic INT8 has weights of 8 bits"):
            quantization_aware.write_quantized(prepare(model(), scheme), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def made_up():
    def row(bits, method, seed, accuracy):
        return QuantizedStudent(bits, method, seed, accuracy, accuracy, 0.1, 15.0)

    values = [(32, "before", 0, 0.95), (8, "before", 0, 0.94), (2, "before", 0, 0.1)]
    values += [(2, "fitted", 0, 0.8)]
    values += [(8, "continued", 0, 0.945), (2, "continued", 0, 0.12), (32, "continued", 0, 0.951)]
    values += [(8, "aware", 0, 0.95), (8, "aware", 1, 0.96), (2, "aware", 0, 0.9)]
    return BitsStudy(tuple(row(*each) for each in values), 1000)


def test_a_gain_is_a_difference_of_means_over_seeds():
    """Over the student as given, or over the one that was trained as long."""
    study = made_up()
    assert study.bits == [8, 2]
    assert study.gain(8) == pytest.approx(0.955 - 0.94)
    assert study.gain(2, over="continued") == pytest.approx(0.78)


def test_the_figure_has_a_line_a_method():
    """Bits on the horizontal axis, the most on the left; float32 as a level."""
    from labs.lab5_distillation.figures_quantization import draw_bits

    figure = draw_bits(made_up())
    axes = figure.axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert len(labels) == 5, labels
    assert [each.get_text() for each in axes.get_xticklabels()] == ["8", "2"]


@pytest.mark.slow
def test_the_study_measures_files(trained):
    """Slow for its five exports. Every row is a file that ONNX Runtime ran; at two bits the aware
    student beats both others, and the fake-quantized answers are the file's.
    """
    student, teacher, texts = trained
    study = quantization_aware.bits_study(
        student, teacher, texts, texts, teacher.logits, RECIPE, bits=(2,)
    )
    assert [(row.bits, row.method) for row in study.rows] == [
        (32, "before"), (2, "before"), (2, "fitted"),
        (32, "continued"), (2, "continued"), (2, "aware"),
    ]  # fmt: skip
    before, fitted, aware = (study.of(2, name)[0] for name in ("before", "fitted", "aware"))
    assert study.of(32, "before")[0].divergence == pytest.approx(0, abs=1e-4)
    fake = fake_quantization.prepare(student, weight_only(2))
    assert before.divergence == pytest.approx(apart(fake, teacher, texts), rel=1e-3)
    assert aware.divergence < fitted.divergence / 2
    assert aware.accuracy >= before.accuracy


# --- stopped, and gone on with ------------------------------------------------------------------

SCHEMES = [INT8, weight_only(2, "learned"), weight_only(3, "least_error"), None]


def teach(trained, scheme, **options):
    """Losses by step and the student, None when it was stopped at ``stop``; no scheme: continued"""
    student, teacher, texts = trained
    stop, losses = options.pop("stop", None), []

    def on_step(step, loss):
        losses.append(loss)
        if step == stop:
            raise KeyboardInterrupt

    short = RECIPE.but(epochs=2, batch_size=32)
    try:
        if scheme is None:
            learn, more = quantization_aware.continued_distillation, {}
        else:
            learn, more = quantization_aware.quantization_aware_distillation, {"scheme": scheme}
        return losses, learn(student, teacher, texts, short, on_step=on_step, **more, **options)
    except KeyboardInterrupt:
        return losses, None


@pytest.mark.parametrize("scheme", SCHEMES, ids=["int8", "learned", "fitted", "continued"])
def test_a_prepared_student_goes_on_to_the_same_losses_to_the_bit(scheme, trained, tmp_path):
    """Scales that are learned, fitted once or taken from the maxima: all are found again."""
    losses, expected = teach(trained, scheme)
    first, none = teach(trained, scheme, stop=4, checkpoint=tmp_path / "run.pt")
    rest, resumed = teach(trained, scheme, checkpoint=tmp_path / "run.pt")
    assert none is None
    assert len(losses) == 10
    assert (first, rest) == (losses[:4], losses[4:])
    before, after = expected.state_dict(), resumed.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("other", [weight_only(4, "learned"), None], ids=["bits", "none"])
def test_a_checkpoint_of_another_scheme_is_refused(other, trained, tmp_path):
    """2 and 4 bits have tensors of the same shapes: these alone do not tell them apart."""
    path = tmp_path / "run.pt"
    teach(trained, weight_only(2, "learned"), stop=2, checkpoint=path)
    with pytest.raises(InputError, match=r"objective\.scheme is '?.*weight_bits=2"):
        teach(trained, other, checkpoint=path)


@pytest.mark.parametrize("scheme", [INT8, None], ids=["int8", "continued"])
def test_a_bad_batch_of_a_prepared_student_is_saved(scheme, trained, tmp_path):
    student, teacher, texts = trained
    bad = CachedTeacher(torch.full_like(teacher.logits, torch.nan))
    with pytest.raises(RunError, match=r"bad-step-1\.pt"):
        teach((student, bad, texts), scheme, bad_batches=tmp_path)
    assert (tmp_path / "bad-step-1.pt").exists()
