from __future__ import annotations

import numpy as np

from labs.lab6_online_eval import figures_sequential, peeking
from labs.lab6_online_eval.guardrails import Guardrail, check_guardrails
from labs.lab6_online_eval.methods_sequential import looked_at


def test_the_peeking_figure_has_a_line_a_rule_and_names_its_axes() -> None:
    """A legend entry for each rule, in the study's order."""
    study = peeking.study_peeking(looks=(1, 3), n_experiments=200)
    left, right = figures_sequential.draw_peeking(study).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == list(
        figures_sequential.LABELS.values()
    )
    assert (left.get_xlabel(), right.get_xlabel()) == ("looks", "looks")


def test_guardrails_are_drawn_in_units_of_their_margin() -> None:
    """Worse is to the right whichever direction is better, and the margin is at 1."""
    results = check_guardrails(
        [Guardrail("sessions", -0.02, 0.001, 0.01), Guardrail("ms", 0.1, 0.001, 0.05, False)]
    )
    axis = figures_sequential.draw_guardrails(results).axes[0]
    dots = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"]
    assert np.allclose(dots, [2.0, 2.0])


def test_the_sequence_contains_the_fixed_interval() -> None:
    """What always-valid costs, seen: the sequence is the wider band."""
    data = looked_at(np.random.default_rng(0), 1, 0.0)
    figure = figures_sequential.draw_confidence_sequence(data, true_effect=0.0, tuned_for=1000.0)
    sequence, fixed = figure.axes[0].collections
    widths = [np.ptp(band.get_paths()[0].vertices[:, 1]) for band in (sequence, fixed)]
    assert widths[0] > widths[1]
    assert len(figures_sequential.draw_boundaries(5).axes[0].lines) == len(peeking.RULES)
