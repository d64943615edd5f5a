"""Figures of feature distillation are drawn from results, and refuse nothing to draw."""

import numpy as np
import pytest

from common.errors import InputError
from labs.lab5_distillation import layer_maps
from labs.lab5_distillation.figures_features import draw_layer_maps, draw_layer_similarity


def test_a_panel_shows_every_layer_and_every_pair():
    """Boxes of both models, an arrow a pair, a title a map."""
    maps = {"uniform": layer_maps.uniform(2, 6), "last only": layer_maps.last_only(2, 6)}
    figure = draw_layer_maps(maps)
    assert [axes.get_title() for axes in figure.axes] == list(maps)
    for axes, layers in zip(figure.axes, maps.values()):
        assert len(axes.patches) == 2 + 6
        assert len(axes.texts) == 8 + len(layers.pairs) + 2
    with pytest.raises(InputError, match="no layer map"):
        draw_layer_maps({})


def test_a_panel_shows_every_similarity():
    """Numbers in the cells, on one scale from 0 to 1."""
    values = np.linspace(0, 1, 12).reshape(2, 6)
    figure = draw_layer_similarity({"before": values, "hidden states": values / 2})
    for axes in figure.axes[:2]:
        assert len(axes.texts) == 12
        assert axes.images[0].get_clim() == (0, 1)
    assert figure.axes[1].texts[-1].get_text() == ".50"
    with pytest.raises(InputError, match="one shape"):
        draw_layer_similarity({"a": values, "b": values[:1]})
    with pytest.raises(InputError, match="one at least"):
        draw_layer_similarity({})
