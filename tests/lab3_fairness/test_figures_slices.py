import numpy as np
import pytest

from common.errors import InputError
from labs.lab3_fairness import figures_slices, slice_confirmation, slice_study


def test_the_figure_of_effects_shows_both_halves_and_says_when_there_is_nothing():
    """A panel a report; an empty one says "no slice found", which is a result too."""
    reports = {
        "planted": slice_confirmation.confirm_slices(*slice_study.planted_data(6000)),
        "nothing": slice_confirmation.confirm_slices(*slice_study.planted_data(1000, lift=0.0)),
    }
    figure = figures_slices.draw_held_out_effects(reports)
    panels = figure.axes
    assert len(panels) == 2
    names = [label.get_text() for label in panels[0].get_yticklabels()]
    assert any(name.startswith("c0 = 1 and c1 = 1") for name in names)
    assert [text.get_text() for text in panels[1].texts] == ["no slice found"]
    with pytest.raises(InputError, match="reports"):
        figures_slices.draw_held_out_effects({})


def test_the_figure_of_null_data_shows_each_procedure_beside_its_level():
    """Four bars, four levels: what is promised stands beside what happened."""
    literals, loss = slice_study.planted_data(600, lift=0.0)
    study = slice_study.null_study(literals, loss, n_datasets=10, min_rows=30)
    bars, counts = figures_slices.draw_null_discoveries(study).axes
    heights = [patch.get_height() for patch in bars.patches]
    assert heights == pytest.approx(
        [
            study.any_uncorrected.value,
            study.any_bonferroni.value,
            study.any_benjamini_hochberg.value,
            study.any_confirmed.value,
        ]
    )
    assert sum(patch.get_height() for patch in counts.patches) == np.size(study.uncorrected)
