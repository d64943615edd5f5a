"""Networks that shrink while they train: the replacement schedule, Theseus, layers dropped."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import InputError, RunError
from labs.lab5_distillation import layer_dropping


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def add(amount):
    return lambda states: states + amount


@pytest.mark.exercise("5.13")
@settings(derandomize=True, deadline=None, max_examples=40)
@given(start=st.floats(0, 1), full_at=st.integers(1, 500), step=st.integers(0, 1000))
def test_the_rate_rises_linearly_from_its_start_to_one_and_stays(start, full_at, step):
    """At ``full_at`` the predecessor has gone: a successor never alone in training is not ready."""
    found = layer_dropping.Replacement(start, full_at).rate(step)
    expected = 1.0 if step >= full_at else start + (1 - start) * step / full_at
    assert found == pytest.approx(expected), (
        f"rate at step {step} is {found}, expected {expected} (start {start}, 1 at {full_at})"
    )


@pytest.mark.exercise("5.13")
def test_from_the_full_step_on_the_successor_runs_alone():
    """Each of 200 passes is all successor; before the first step with start 0, all predecessor."""
    schedule = layer_dropping.Replacement(0.0, 10)
    old, new = [[add(1.0), add(1.0)]] * 3, [add(100.0)] * 3
    for step, expected in ((0, 6.0), (10, 300.0), (25, 300.0)):
        source = generator(1)
        sums = {
            float(schedule.mixed(torch.zeros(1, 1, 1), old, new, step, source)) for _ in range(200)
        }
        assert sums == {expected}, f"sums at step {step}: {sorted(sums)}, expected {expected} only"


@pytest.mark.exercise("5.13")
def test_each_module_is_drawn_on_its_own_with_the_rate_of_the_step():
    """At rate 1/4 each of 3 modules is replaced in a quarter of passes, together in one in 64.

    One draw for the whole network gives two networks, never a mixture: no layer of the successor
    works among the predecessor's.
    """
    schedule = layer_dropping.Replacement(0.0, 4)
    old, new = [[add(0.0)]] * 3, [add(float(10**m)) for m in range(3)]
    source, n = generator(2), 4000
    sums = [int(schedule.mixed(torch.zeros(1, 1, 1), old, new, 1, source).item()) for _ in range(n)]
    for m in range(3):
        share = sum((each // 10**m) % 10 == 1 for each in sums) / n
        assert abs(share - 0.25) < 0.03, f"module {m} replaced in {share:.3f} of passes, not 0.25"
    together = sum(each == 111 for each in sums) / n
    assert abs(together - 0.25**3) < 0.01, (
        f"all modules replaced at once in {together:.3f} of passes, expected {0.25**3:.3f}"
    )


@pytest.mark.exercise("5.13")
def test_a_layer_below_the_predecessors_learns_through_them():
    """Frozen means that its weights do not change; the gradient goes through it all the same.

    Without, a successor's layer learns only in passes in which all above it are the successor's.
    """
    torch.manual_seed(0)
    below, above = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)
    schedule = layer_dropping.Replacement(0.5, 10**9)
    states = torch.randn(2, 3, 4)

    class Never(nn.Module):
        """What stands in for a layer that is not run in the pass that is looked for."""

        def forward(self, states):
            return states * float("nan")

    for seed in range(50):
        draws = torch.rand(2, generator=generator(seed))
        if draws[0] < 0.5 <= draws[1]:
            break
    found = schedule.mixed(states, [[Never()], [above]], [below, Never()], 0, generator(seed))
    expected = above(below(states))
    assert torch.allclose(found, expected, atol=1e-6), (
        f"states {found.flatten()[:3].tolist()}, expected the successor's first layer under the "
        f"predecessor's second module: {expected.flatten()[:3].tolist()}"
    )
    assert found.requires_grad, "no graph: the successor's layer below learns nothing, 0 gradient"
    found.pow(2).sum().backward()
    assert below.weight.grad is not None, "gradient of the layer below is None, expected numbers"
    assert above.weight.grad is None, f"the frozen layer has a gradient: {above.weight.grad}"


def theseus(teacher, layers=2, start=0.5, full_at=10, seed=0):
    schedule = layer_dropping.Replacement(start, full_at)
    return layer_dropping.Theseus(teacher, layers, schedule, seed=seed)


def batch_of(texts, n=8):
    return texts.batch(torch.arange(n).numpy())


def test_at_rate_one_theseus_is_its_student_and_at_rate_zero_its_predecessor(
    tiny_teacher, tiny_texts
):
    """What was trained is what is served, and at the start it is the network that knew the task."""
    from labs.lab5_distillation.encoders import read

    batch = batch_of(tiny_texts)
    objective = theseus(tiny_teacher, start=0.0, full_at=10).eval()
    with torch.no_grad():
        assert torch.allclose(objective.logits(batch, 0), read(tiny_teacher, batch), atol=1e-5)
        alone = read(objective.student, batch)
        assert torch.allclose(objective.logits(batch, 10), alone, atol=1e-5)
        assert not torch.allclose(alone, read(tiny_teacher, batch), atol=1e-2)


def test_only_the_successor_learns(tiny_teacher, tiny_texts):
    """The predecessor is in no optimizer, in evaluation mode, and unchanged after training."""
    from labs.lab5_distillation.recipe import Recipe, train

    before = {name: each.clone() for name, each in tiny_teacher.state_dict().items()}
    objective = theseus(tiny_teacher, full_at=3)
    frozen = [layer for module in objective._modules_of_old for layer in module]
    was = [layer.output.dense.weight.clone() for layer in frozen]
    ours = {id(each) for each in objective.parameters()}
    assert ours == {id(each) for each in objective.student.parameters()}
    train(objective, tiny_texts, Recipe(epochs=2, rate=1e-2, batch_size=16))
    assert all(torch.equal(each, before[name]) for name, each in tiny_teacher.state_dict().items())
    for layer, weight in zip(frozen, was, strict=True):
        assert torch.equal(layer.output.dense.weight, weight)
        assert not layer.training
        assert all(each.grad is None for each in layer.parameters())


def test_the_schedule_advances_with_the_batches_that_are_learned_from(tiny_teacher, tiny_texts):
    """Judging a loss in between does not bring the end of the predecessor nearer."""
    objective = theseus(tiny_teacher, start=0.0, full_at=2)
    batch = batch_of(tiny_texts)
    objective.eval()
    objective(batch)
    assert objective.steps == 0
    objective.train()
    for _ in range(3):
        objective(batch)
    assert objective.steps == 3
    # Four layers of the predecessor in the first pass, either in the second, two at rate 1.
    assert int(objective.layers_run) in (4 + 2 + 2, 4 + 3 + 2, 4 + 4 + 2)


def test_a_successor_trained_by_replacement_knows_the_task(tiny_teacher, tiny_texts):
    """The student alone, after the schedule has reached 1."""
    from labs.lab5_distillation.recipe import Recipe, accuracy, logits, supervised, train

    train(supervised(tiny_teacher), tiny_texts, Recipe(epochs=8, rate=3e-3, head_rate=1e-2))
    objective = theseus(tiny_teacher, layers=1, full_at=10)
    start = accuracy(logits(objective.student, tiny_texts), tiny_texts)
    losses = train(objective, tiny_texts, Recipe(epochs=8, rate=3e-3, batch_size=16))
    end = accuracy(logits(objective.student, tiny_texts), tiny_texts)
    assert losses[-1] < losses[0], losses
    assert end > max(0.8, start - 0.01), (start, end)


def test_a_stopped_run_goes_on_with_the_same_draws_at_the_same_rate(
    tiny_teacher, tiny_texts, tmp_path
):
    """The step is in the checkpoint; from 0 again, the predecessor would come back."""
    from labs.lab5_distillation.recipe import Recipe, train

    recipe = Recipe(epochs=2, rate=1e-3, batch_size=16)
    whole = theseus(tiny_teacher, full_at=8, seed=3)
    losses = train(whole, tiny_texts, recipe)

    class Stop(Exception):
        pass

    def stop(step, loss):
        if step == 7:
            raise Stop

    file = tmp_path / "run.pt"
    with pytest.raises(Stop):
        first = theseus(tiny_teacher, full_at=8, seed=3)
        train(first, tiny_texts, recipe, on_step=stop, checkpoint=file, every=3)
    resumed = theseus(tiny_teacher, full_at=8, seed=3)
    assert train(resumed, tiny_texts, recipe, checkpoint=file) == losses
    assert int(resumed.steps) == int(whole.steps) == 10
    assert torch.equal(resumed.student.head.weight, whole.student.head.weight)


@pytest.mark.parametrize("layers", [0, 3, 4, 8])
def test_modules_that_do_not_divide_the_predecessor_are_refused(tiny_teacher, layers):
    with pytest.raises(InputError, match="must divide the predecessor's 4 and be fewer"):
        theseus(tiny_teacher, layers=layers)


def dropping(teacher, texts, drops, **options):
    from labs.lab5_distillation.encoders import clone
    from labs.lab5_distillation.recipe import cached

    known = cached(teacher, texts)
    return layer_dropping.LayerDropping(clone(teacher), known, drops, **options)


def test_the_layer_that_does_nothing_is_the_least_missed(tiny_teacher, tiny_texts):
    """A layer whose outputs are zero adds nothing to its input, so logits hardly change."""
    from labs.lab5_distillation.encoders import layers_of

    with torch.no_grad():
        idle = layers_of(tiny_teacher)[2]
        for part in (idle.attention.output.dense, idle.output.dense):
            part.weight.zero_()
            part.bias.zero_()
        for each in layers_of(tiny_teacher):
            if each is not idle:
                each.output.dense.weight.mul_(20)
    before = [id(layer) for layer in layers_of(tiny_teacher)]
    assert layer_dropping.least_missed(tiny_teacher, batch_of(tiny_texts)) == 2
    assert [id(layer) for layer in layers_of(tiny_teacher)] == before
    assert tiny_teacher.encoder.config.num_hidden_layers == 4


def test_layers_go_at_their_steps_and_the_others_stay_in_order(tiny_teacher, tiny_texts):
    """Two of four layers at steps 1 and 3; the student is then what `by_depth` would cut."""
    from labs.lab5_distillation.encoders import layers_of, read
    from labs.lab5_distillation.students import by_depth

    places = iter([1, 0])
    objective = dropping(tiny_teacher, tiny_texts, (1, 3), choose=lambda model, batch: next(places))
    batch, depths = batch_of(tiny_texts), []
    for _ in range(5):
        objective(batch)
        depths.append(len(layers_of(objective.student)))
    assert depths == [4, 3, 3, 2, 2]
    assert objective.layers_run == sum(depths)
    assert objective.dropped == [(1, 1), (3, 0)]
    objective.eval()
    with torch.no_grad():
        expected = read(by_depth(tiny_teacher, (2, 3)), batch)
        assert torch.allclose(read(objective.student, batch), expected, atol=1e-6)


def test_a_network_that_loses_layers_still_says_what_its_teacher_says(tiny_teacher, tiny_texts):
    """Under the lab's recipe, with one optimizer from four layers to one; dropped layers rest."""
    from labs.lab5_distillation.encoders import layers_of
    from labs.lab5_distillation.recipe import Recipe, accuracy, logits, supervised, train

    train(supervised(tiny_teacher), tiny_texts, Recipe(epochs=8, rate=3e-3, head_rate=1e-2))
    objective = dropping(tiny_teacher, tiny_texts, layer_dropping.even_drops(40, 3))
    gone = []
    everyone = list(layers_of(objective.student))

    def remember(step, loss):
        left = {id(layer) for layer in layers_of(objective.student)}
        for layer in everyone:
            if id(layer) not in left and id(layer) not in {id(each[0]) for each in gone}:
                gone.append((layer, layer.output.dense.weight.clone()))

    train(objective, tiny_texts, Recipe(epochs=8, rate=3e-3, batch_size=16), on_step=remember)
    assert len(layers_of(objective.student)) == 1
    assert len(gone) == 3
    assert all(torch.equal(layer.output.dense.weight, weight) for layer, weight in gone)
    mine = logits(objective.student, tiny_texts)
    assert accuracy(mine, tiny_texts) > 0.8


@pytest.mark.parametrize("drops", [(0, 1, 2, 3), (3, 1), (-1,)])
def test_drops_that_cannot_be_are_refused(tiny_teacher, tiny_texts, drops):
    with pytest.raises(InputError, match="one has to stay"):
        dropping(tiny_teacher, tiny_texts, drops)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(total=st.integers(1, 5000), n=st.integers(1, 11), until=st.floats(0.01, 1))
def test_even_drops_leave_the_rest_of_the_steps_to_the_student(total, n, until):
    """They rise from 0 and end below the share that is given to them."""
    found = layer_dropping.even_drops(total, n, until)
    assert len(found) == n
    assert found[0] == 0
    assert list(found) == sorted(found)
    assert found[-1] <= until * total


def test_a_bad_batch_of_a_shrinking_student_is_saved(tiny_teacher, tiny_texts, tmp_path):
    """It has no checkpoint, and its batch is saved all the same, after a layer has gone too."""
    from labs.lab5_distillation.recipe import Recipe, train

    objective = dropping(tiny_teacher, tiny_texts, (0, 2))
    objective.teacher.logits[:] = torch.nan

    with pytest.raises(RunError, match=r"the loss is nan at step 1 .*bad-step-1\.pt"):
        train(objective, tiny_texts, Recipe(epochs=1), bad_batches=tmp_path)
    held = torch.load(tmp_path / "bad-step-1.pt", weights_only=True)
    assert len(held["batches"][0]["labels"]) == 32
