"""Two outputs compared, the report over every shape, and the gates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError, RunError
from labs.lab4_model_serving import parity
from labs.lab4_model_serving.figures_runtime import draw_parity
from labs.lab4_model_serving.parity_report import (
    QUANTIZED,
    Artefact,
    Limits,
    parity_report,
    require_report,
    shape_cases,
)

VOCABULARY, CLASSES = 200, 7


def logits(n: int, classes: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, classes)).astype(np.float32)


@pytest.mark.exercise("4.4")
def test_a_nan_is_an_infinite_error_and_never_a_decision_kept():
    """NaN compares false with every limit, so `error > limit` lets it pass; argmax of a row with a
    NaN is the place of the NaN, which can be the right class. Both let a broken model through.
    """
    reference = np.array([[3.0, 1.0], [0.0, 2.0], [5.0, 4.0]])
    candidate = np.array([[np.nan, 1.0], [0.0, 2.0], [5.0, 4.0]])
    for a, b, where in ((reference, candidate, "candidate"), (candidate, reference, "reference")):
        found = parity.compare_rows(a, b)
        assert found.max_abs_error == math.inf, (
            f"the error with a NaN in the {where} is {found.max_abs_error}, it must be inf"
        )
        assert found.agrees.tolist() == [False, True, True], (
            f"rows that agree: {found.agrees.tolist()}, of [False, True, True]: row 0 of the "
            f"{where} holds a NaN"
        )
        assert found.worst_row == 0, f"the worst row is {found.worst_row}, of 0"
    both = parity.compare_rows(candidate, candidate)
    assert not both.agrees[0], "NaN on both sides is no agreement either: nobody knows the answer"


@pytest.mark.exercise("4.4")
def test_a_masked_class_is_no_error():
    """-inf on both sides is the same answer; inf - inf is NaN, which must not make it a failure."""
    row = np.array([[1.0, -np.inf, 0.5]])
    found = parity.compare_rows(row, row.copy())
    assert found.max_abs_error == 0, f"the error of equal rows is {found.max_abs_error}, not 0"
    assert found.agrees.tolist() == [True], "equal rows agree"


@pytest.mark.exercise("4.4")
@settings(derandomize=True, deadline=None, max_examples=40)
@given(n=st.integers(1, 9), classes=st.integers(2, 9), seed=st.integers(0, 10_000))
def test_the_errors_the_decisions_and_the_worst_row_are_those_of_a_loop(n, classes, seed):
    """One row at a time and one class at a time, in plain Python.

    Decisions are over the classes of a row; over the batch they would say which text is most like a
    class. The worst row is a row's number, with which the text can be looked up.
    """
    reference = logits(n, classes, seed)
    candidate = reference + logits(n, classes, seed + 1) * 0.5
    found = parity.compare_rows(reference, candidate)
    worst, largest = 0, -1.0
    for i in range(n):
        a, b = reference[i].astype(float).tolist(), candidate[i].astype(float).tolist()
        same = a.index(max(a)) == b.index(max(b))
        assert bool(found.agrees[i]) == same, (
            f"row {i} agrees: {found.agrees[i]}, but the largest of {a} and of {b}: {same}"
        )
        for j in range(classes):
            error = abs(a[j] - b[j])
            assert found.errors[i, j] == pytest.approx(error, abs=1e-9), (
                f"the error at row {i}, class {j} is {found.errors[i, j]:.6g}, not {error:.6g}"
            )
            if error > largest:
                worst, largest = i, error
    assert found.worst_row == worst, (
        f"the worst row of {n} is {found.worst_row}, not {worst}, whose error is {largest:.4g}"
    )
    assert found.agrees.shape == (n,), f"agrees has shape {found.agrees.shape}, it must be {(n,)}"


@pytest.mark.exercise("4.4")
def test_integers_do_not_wrap_around():
    """An INT8 output is uint8: 3 - 5 is 254 there."""
    found = parity.compare_rows(np.array([[3, 9]], np.uint8), np.array([[5, 8]], np.uint8))
    assert found.errors.tolist() == [[2.0, 1.0]], (
        f"errors {found.errors.tolist()} of [3, 9] and [5, 8], they must be [[2, 1]]"
    )


def test_arrays_that_do_not_fit_are_refused():
    for a, b in (((2, 3), (3, 2)), ((2,), (2,)), ((0, 3), (0, 3))):
        with pytest.raises(InputError, match="shape"):
            parity.compare_rows(np.zeros(a), np.zeros(b))


def model(inputs):
    """Sums a random row a real token: a classifier that any shape and any padding suits."""
    table = logits(VOCABULARY, CLASSES, 0)
    return (table[inputs["input_ids"]] * inputs["attention_mask"][:, :, None]).sum(axis=1)


def frozen_length(inputs):
    """What a trace at 15 tokens makes of it: other lengths are cut or refused."""
    if inputs["input_ids"].shape[1] < 15:
        raise RuntimeError("expected 15 tokens")
    return model({name: array[:, :15] for name, array in inputs.items()})


def ignores_padding_mask(inputs):
    return model({**inputs, "attention_mask": np.ones_like(inputs["attention_mask"])})


@pytest.fixture(scope="module")
def texts():
    batches = [shape_cases(VOCABULARY, seed=seed)["ragged"] for seed in range(40)]
    return batches, np.concatenate([model(batch).argmax(axis=1) for batch in batches])


def report(texts, *artefacts):
    batches, labels = texts
    cases = shape_cases(VOCABULARY)
    return parity_report(model, artefacts, cases=cases, batches=batches, labels=labels)


def test_the_cases_hold_what_conversions_break_on():
    """One row, an odd length, the longest, and padding behind and in front of the tokens."""
    cases = shape_cases(VOCABULARY, max_tokens=32)
    shapes = {case["input_ids"].shape for case in cases.values()}
    assert {(1, 1), (1, 7), (5, 15), (4, 32), (8, 17), (8, 32)} <= shapes
    behind, front = (cases[name]["attention_mask"] for name in ("ragged", "padded in front"))
    assert behind.sum(axis=1).min() < 17
    assert (np.diff(behind, axis=1) <= 0).all()
    assert (np.diff(front, axis=1) >= 0).all()
    assert np.array_equal(model(cases["ragged"]), model(cases["ragged, padded further"]))


def test_the_same_model_passes_with_its_size_and_an_interval(texts, tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(b"12345")
    (row,) = report(texts, Artefact("same", model, path))
    assert row.passed
    assert row.bytes == 5
    assert row.max_abs_error == 0
    assert row.accuracy == 1
    assert row.accuracy_interval[0] < 1
    require_report([row])


def test_an_artefact_that_froze_a_length_is_caught_where_it_is_wrong(texts):
    """At the shape it was made for it is right; the report asks elsewhere and names the rows."""
    (row,) = report(texts, Artefact("frozen", frozen_length))
    at = {case.case: case for case in row.cases}
    assert at["five rows, odd length"].max_abs_error == 0
    assert "expected 15 tokens" in at["one row, 7 tokens"].refused
    assert at["longest"].max_abs_error > 0.1
    with pytest.raises(RunError, match=r"(?s)frozen: raises at .*row 0 differs by|raised Runtime"):
        require_report([row])


def test_the_message_shows_the_first_offending_row_with_both_answers(texts):
    (row,) = report(texts, Artefact("unmasked", ignores_padding_mask))
    with pytest.raises(RunError, match=r"ragged \[8, 17\]: row \d differs by .*class \d .*became"):
        require_report([row])


def test_a_model_that_answers_nan_is_right_about_nothing(texts):
    def broken(inputs):
        return np.full((len(inputs["input_ids"]), CLASSES), np.nan)

    (row,) = report(texts, Artefact("nan", broken, limits=QUANTIZED))
    assert (row.accuracy, row.agreement, row.max_abs_error) == (0, 0, np.inf)
    assert not row.passed


def test_a_nan_at_one_shape_is_caught_where_only_decisions_are_limited(texts):
    """INT8 has no limit on its error; a scale that overflows at one length must still stop it."""

    def overflows(inputs):
        answer = model(inputs)
        return answer * np.nan if inputs["input_ids"].shape == (4, 32) else answer

    (row,) = report(texts, Artefact("int8", overflows, limits=QUANTIZED))
    assert row.agreement == 1
    with pytest.raises(RunError, match=r"NaN or infinity at 'longest'\n  longest .*row 0"):
        require_report([row])


def test_another_number_of_classes_is_a_finding_and_no_crash(texts):
    (row,) = report(texts, Artefact("cut", lambda inputs: model(inputs)[:, :-1]))
    assert "not (1, 7)" in row.cases[0].refused


@pytest.mark.parametrize(("flipped", "passes"), [(0, True), (2, True), (30, False)])
def test_accuracy_is_judged_by_the_interval_of_the_paired_change(texts, flipped, passes):
    """2 of 320 texts lost lie within a margin of 2 %, interval and all; 30 do not."""
    batches, labels = texts

    def noisy(inputs):
        answer = model(inputs).copy()
        at = [i for i, batch in enumerate(batches) if batch is inputs]
        if at and at[0] < flipped:
            answer[0] = -answer[0]
        return answer

    limits = Limits(max_abs_error=None, min_agreement=0.5, max_accuracy_loss=0.02)
    (row,) = report(texts, Artefact("noisy", noisy, limits=limits))
    assert row.accuracy_change[0] == pytest.approx(-flipped / len(labels))
    assert row.passed == passes, row.failures


def test_labels_that_do_not_fit_the_texts_are_refused(texts):
    with pytest.raises(InputError, match="labels"):
        report((texts[0], texts[1][:-1]), Artefact("same", model))


def test_the_figure_shows_an_artefact_that_raised_and_one_without_error(texts, tmp_path):
    """Neither 0 nor infinity has a place on a logarithmic axis: both are moved to its edges."""
    rows = report(texts, Artefact("same", model), Artefact("frozen", frozen_length))
    figure = draw_parity(rows)
    drawn = [x for each in figure.axes[0].collections for x in each.get_offsets()[:, 0]]
    assert min(drawn) > 0
    assert np.isfinite(drawn).all()
    figure.savefig(tmp_path / "parity.png")
