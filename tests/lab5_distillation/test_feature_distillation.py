"""The objective over features and logits: what it computes, what learns, what it leaves."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch

from common.errors import InputError
from labs.lab5_distillation import layer_maps
from labs.lab5_distillation import recipe as recipes
from labs.lab5_distillation.attention_maps import AttentionMaps
from labs.lab5_distillation.distillation_loss import distillation_loss
from labs.lab5_distillation.encoders import clone, read
from labs.lab5_distillation.feature_distillation import (
    FeatureDistillation,
    cache_bytes,
    feature_then_logits,
    layer_path,
)
from labs.lab5_distillation.feature_study import METHODS, compare_features, feature_losses
from labs.lab5_distillation.hidden_states import (
    HiddenStateDistillation,
    HiddenStates,
    hidden_state_loss,
)
from labs.lab5_distillation.hooks import Taps
from labs.lab5_distillation.relations import RelationDistillation, Relations
from labs.lab5_distillation.students import by_depth
from tests.lab5_distillation.conftest import tiny_classifier

LAYERS = layer_maps.uniform(2, 4)
RECIPE = recipes.Recipe(epochs=1, rate=1e-3, head_rate=1e-2, batch_size=16)


def some(texts, n=8):
    return texts.batch(np.arange(n))


def every(student, teacher):
    return list(feature_losses("all features", student, teacher, LAYERS, heads=8).values())


def test_the_loss_is_the_weighted_sum_of_its_parts(tiny_teacher, tiny_texts):
    """And the logits' part is the distillation loss, whatever is compared beside it."""
    student, batch = by_depth(tiny_teacher, (0, 3)).eval(), some(tiny_texts)
    objective = FeatureDistillation(
        student, tiny_teacher, every(student, tiny_teacher), weights=[0.5, 3.0, 10.0],
        logits=2.0, temperature=3.0, alpha=0.7,
    )  # fmt: skip
    parts = objective.parts(batch)
    assert list(parts) == ["logits", "HiddenStates", "AttentionMaps", "Relations"]
    expected = distillation_loss(
        read(student, batch), read(tiny_teacher, batch), batch.labels, temperature=3.0, alpha=0.7
    )
    assert parts["logits"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert all(part.item() > 0 for part in parts.values())
    total = sum(w * parts[name].item() for w, name in zip((2, 0.5, 3, 10), parts))
    assert objective(batch).item() == pytest.approx(total, rel=1e-5)


def test_hidden_states_are_compared_layer_by_layer_of_the_map(tiny_teacher, tiny_texts):
    """Against transformers' hidden_states, whose number i + 1 is the output of layer i."""
    student, batch = tiny_classifier(2, seed=1), some(tiny_texts)
    objective = HiddenStateDistillation(student, tiny_teacher, LAYERS, embeddings=True)
    with torch.no_grad():
        ours, theirs = (
            each.encoder(
                batch.input_ids, batch.attention_mask, output_hidden_states=True
            ).hidden_states
            for each in (student, tiny_teacher)
        )
        expected = [
            hidden_state_loss(ours[s], theirs[t], batch.attention_mask, torch.nn.Identity()).item()
            for s, t in ((0, 0), (1, 2), (2, 4))
        ]
    found = objective.eval().parts(batch)["HiddenStates"].item()
    assert found == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_a_student_with_the_teachers_own_layers_has_no_feature_loss(tiny_teacher, tiny_texts):
    """Every comparison is 0 where there is nothing left to learn: identity and no dropout."""
    student, batch = clone(tiny_teacher), some(tiny_texts)
    losses = [
        HiddenStates(student, tiny_teacher, layer_maps.first(4, 4), embeddings=True),
        AttentionMaps(student, tiny_teacher, layer_maps.first(4, 4)),
        Relations(student, tiny_teacher, heads=8),
    ]
    parts = FeatureDistillation(student, tiny_teacher, losses).parts(batch)
    for name in ("HiddenStates", "AttentionMaps", "Relations"):
        assert parts[name].item() == pytest.approx(0, abs=1e-6), name


def test_projections_learn_with_the_student_and_the_teacher_does_not(tiny_teacher, tiny_texts):
    """They are parameters of the objective, so the recipe trains them at the heads' rate."""
    student = tiny_classifier(2, seed=1, width=48)
    objective = HiddenStateDistillation(student, tiny_teacher, LAYERS, weight=5.0)
    names = [name for name, _ in objective.named_parameters()]
    added = [name for name in names if not name.startswith("student.")]
    assert added == ["losses.0.projections.0.weight", "losses.0.projections.1.weight"]
    before = [each.detach().clone() for each in objective.parameters()]
    taught = {name: each.clone() for name, each in tiny_teacher.state_dict().items()}
    recipes.train(objective, tiny_texts, RECIPE)
    assert all(
        not torch.equal(old, new)
        for name, old, new in zip(names, before, objective.parameters())
        if "layer" in name or "projections" in name
    )
    assert all(torch.equal(taught[name], each) for name, each in tiny_teacher.state_dict().items())
    assert not tiny_teacher.training


def test_the_trained_student_is_clean_of_what_taught_it(tiny_teacher, tiny_texts):
    """Its parameters have the names of a student that never had a teacher; no hook is left."""
    student = by_depth(tiny_teacher, (0, 3))
    names = list(student.state_dict())
    objective = FeatureDistillation(student, tiny_teacher, every(student, tiny_teacher))
    recipes.train(objective, tiny_texts, RECIPE)
    assert list(student.state_dict()) == names
    for model in (student, tiny_teacher):
        assert not any(module._forward_hooks for module in model.modules())
    assert "losses.0.projections.0.weight" in objective.state_dict()
    assert not any(name.startswith("teacher") for name in objective.state_dict())


def test_a_step_leaves_nothing_of_its_batch(tiny_teacher, tiny_texts):
    """A tap kept from batch to batch would hold every state of both models."""
    student = by_depth(tiny_teacher, (0, 3))
    objective = FeatureDistillation(student, tiny_teacher, every(student, tiny_teacher))
    seen = []
    layer = student.get_submodule(layer_path(student, 1))
    handle = layer.register_forward_hook(lambda *given: seen.append(weakref.ref(given[2])))
    gc.disable()
    try:
        objective(some(tiny_texts)).backward()
        assert [each() for each in seen] == [None]
    finally:
        handle.remove()
        gc.enable()


def test_bfloat16_autocast_stays_near_float32(tiny_teacher, tiny_texts):
    """Losses are computed in float32 from bfloat16 states, and gradients stay finite."""
    student, batch = by_depth(tiny_teacher, (0, 3)).eval(), some(tiny_texts)
    objective = FeatureDistillation(student, tiny_teacher, every(student, tiny_teacher))
    plain = objective.parts(batch)
    with torch.autocast("cpu", torch.bfloat16):
        cast = objective.parts(batch)
        loss = objective(batch)
    for name, part in cast.items():
        assert part.dtype == torch.float32
        assert part.item() == pytest.approx(plain[name].item(), rel=0.1, abs=1e-3), name
    loss.backward()
    grads = [each.grad for each in objective.parameters() if each.grad is not None]
    assert grads
    assert all(bool(each.isfinite().all()) for each in grads)


def test_features_alone_read_no_label_and_leave_the_head(tiny_teacher, tiny_texts):
    """With a logits' weight of 0 the first phase runs on unlabelled text."""
    student = by_depth(tiny_teacher, (0, 3))
    head = student.head.weight.detach().clone()
    objective = RelationDistillation(student, tiny_teacher, heads=8, logits=0.0)
    assert list(objective.parts(some(tiny_texts))) == ["Relations"]
    losses = recipes.train(objective, tiny_texts.without_labels(), RECIPE.but(epochs=4))
    assert losses[-1] < losses[0]
    assert torch.equal(student.head.weight, head)


def test_two_phases_learn_features_and_then_logits(tiny_teacher, tiny_texts):
    """Both phases come down, and the second moves the head that the first left."""
    student = tiny_classifier(2, seed=1)
    head = student.head.weight.detach().clone()
    losses = [HiddenStates(student, tiny_teacher, LAYERS)]
    features, logits = RECIPE.but(epochs=3), RECIPE.but(epochs=2)
    found = feature_then_logits(student, tiny_teacher, losses, tiny_texts, features, logits)
    assert (len(found.features), len(found.logits)) == (3, 2)
    assert found.features[-1] < found.features[0]
    assert found.logits[-1] < found.logits[0]
    assert not torch.equal(student.head.weight, head)


def test_what_cannot_be_compared_is_refused(tiny_teacher):
    """Weights, paths and layers that do not fit, before the first batch."""
    student = by_depth(tiny_teacher, (0, 3))
    with pytest.raises(InputError, match="0 feature losses"):
        FeatureDistillation(student, tiny_teacher, [])
    losses = every(student, tiny_teacher)
    with pytest.raises(InputError, match="3 feature losses and 1 weights"):
        FeatureDistillation(student, tiny_teacher, losses, weights=[1.0])
    with pytest.raises(InputError, match="weight = 0"):
        FeatureDistillation(student, tiny_teacher, losses[:1], weights=[0.0])
    with pytest.raises(InputError, match="logits = -1"):
        FeatureDistillation(student, tiny_teacher, losses, logits=-1.0)
    with pytest.raises(InputError, match="layer = 2 must be from 0 to 1"):
        HiddenStates(student, tiny_teacher, layer_maps.uniform(4, 4))
    swapped = HiddenStates(tiny_teacher, student, layer_maps.last_only(4, 2))
    with pytest.raises(InputError, match="no module at 'encoder"):
        FeatureDistillation(student, tiny_teacher, [swapped])


def test_a_cache_of_features_takes_what_the_lesson_says():
    """15,000 texts of 32 tokens at width 384: 0.74 GB a layer; logits of 150 classes 9 MB."""
    assert math.isclose(cache_bytes(15_000, 32, 384), 0.737e9, rel_tol=1e-2)
    assert cache_bytes(15_000, 1, 150) == 9_000_000


def test_every_method_trains_the_same_student_by_the_same_recipe(tiny_teacher, tiny_texts):
    """Each starts from equal weights; a method's features end nearer to the teacher's."""
    starts = []

    def student():
        made = by_depth(tiny_teacher, (0, 3))
        made.head.reset_parameters()
        starts.append(clone(made))
        return made

    found = compare_features(
        tiny_teacher, student, tiny_texts, RECIPE.but(epochs=3), LAYERS, heads=8,
        weights={"hidden states": 3.0, "attention maps": 10.0, "relations": 10.0},
    )  # fmt: skip
    assert tuple(found) == METHODS
    assert all(torch.equal(starts[0].head.weight, each.head.weight) for each in starts)
    assert all(len(run.losses) == 3 and math.isfinite(run.losses[-1]) for run in found.values())
    batch, path = some(tiny_texts, 40), layer_path(starts[0], 1)

    def apart(method):
        model = found[method].student.eval()
        with torch.no_grad(), Taps(model, [path]) as ours:
            read(model, batch)
        with torch.no_grad(), Taps(tiny_teacher, [layer_path(tiny_teacher, 3)]) as theirs:
            read(tiny_teacher, batch)
        states = ours[path], theirs[layer_path(tiny_teacher, 3)]
        return hidden_state_loss(*states, batch.attention_mask, torch.nn.Identity()).item()

    assert apart("hidden states") < apart("logits")
    with pytest.raises(InputError, match="'gradients' must be one of"):
        feature_losses("gradients", starts[0], tiny_teacher, LAYERS)
