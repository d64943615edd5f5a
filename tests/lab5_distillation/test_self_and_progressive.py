"""The studies train what they name and count what it cost."""

import pytest
import torch

from labs.lab5_distillation.encoders import layers_of, set_dropout
from labs.lab5_distillation.recipe import Recipe
from labs.lab5_distillation.self_and_progressive import (
    exits_study,
    progressive_study,
    self_study,
)
from tests.lab5_distillation.conftest import make_texts, tiny_classifier

RECIPE = Recipe(epochs=1, rate=1e-3, head_rate=1e-3, batch_size=8)


@pytest.fixture(scope="module")
def few():
    return make_texts(24)


def by_name(found):
    assert len({each.name for each in found}) == len(found)
    return {each.name: each for each in found}


def test_a_study_of_generations_has_each_control(few):
    """Costs count the generations before: the third has been paid for three times."""
    found = by_name(self_study(lambda k: tiny_classifier(1, seed=k), few, RECIPE, n=2))
    assert {name: each.layer_epochs for name, each in found.items()} == {
        "born-again-0": 1, "born-again-1": 2, "independent-0": 1, "independent-1": 1,
        "smoothed-0": 1, "smoothed-1": 1, "permuted-1": 2,
    }  # fmt: skip
    heads = [each.model.head.weight for name, each in found.items() if name != "independent-0"]
    assert len({tuple(head.flatten().tolist()) for head in heads}) == 6


def test_a_study_of_exits_cuts_both_networks_and_trains_the_first_layers_alone(few):
    """The same exits, with and without the deepest head as their teacher."""
    found, network = exits_study(tiny_classifier(3), (1, 2), few, RECIPE)
    named = by_name(found)
    facts = {name: (len(layers_of(each.model)), each.layer_epochs) for name, each in named.items()}
    assert facts == {
        "deeper-head-1": (1, 3), "deeper-head-2": (2, 3), "deeper-head-3": (3, 3),
        "labels-only-1": (1, 3), "labels-only-2": (2, 3), "labels-only-3": (3, 3),
        "alone-1": (1, 1), "alone-2": (2, 2),
    }  # fmt: skip
    assert torch.equal(network.heads[0].weight, named["deeper-head-1"].model.head.weight)
    assert not torch.equal(
        named["labels-only-1"].model.head.weight, named["deeper-head-1"].model.head.weight
    )


def test_every_way_to_a_student_ends_at_its_depth_with_its_cost_counted(few):
    """What Theseus and the drops ran lies between the student's layers and the teacher's."""
    teacher = tiny_classifier(3)
    set_dropout(teacher, 0.0)
    before = {name: each.clone() for name, each in teacher.state_dict().items()}
    found = by_name(progressive_study(teacher, few, RECIPE.but(epochs=2), assistants=(2,)))
    assert all(len(layers_of(each.model)) == 1 for each in found.values())
    costs = {name: each.layer_epochs for name, each in found.items()}
    assert (costs["finetuned"], costs["direct"]) == (2, 2)
    assert (costs["assisted"], costs["direct-long"]) == (6, 6)
    assert 2 <= costs["theseus"] < 6
    # Six steps; a layer goes before the first, the next before the second.
    assert costs["dropped"] == pytest.approx((2 + 5 * 1) / 3)
    assert all(torch.equal(each, before[name]) for name, each in teacher.state_dict().items())
