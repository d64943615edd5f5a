"""Taps record what modules give, leave nothing behind, and refuse what is ambiguous."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

from common.errors import InputError
from labs.lab5_distillation import hooks


def network():
    """Two blocks of a linear map and a tanh; the paths are 0.0, 0.1, 1.0, 1.1."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(2)))


def n_hooks(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@pytest.mark.exercise("5.10")
def test_each_path_gets_its_own_modules_output():
    """A closure that looks its path up late files every layer under the last path."""
    model, x = network(), torch.randn(4, 3)
    with hooks.recording(model, ["0.0", "0", "1.0"]) as calls:
        result = model(x)
    first = model[0][0](x)
    expected = {"0.0": first, "0": first.tanh(), "1.0": model[1][0](first.tanh())}
    assert list(calls) == list(expected), f"recorded {list(calls)}, asked for {list(expected)}"
    for path, value in expected.items():
        assert len(calls[path]) == 1, f"{path} was called once and has {len(calls[path])} records"
        assert torch.equal(calls[path][0], value), (
            f"{path} recorded {calls[path][0][0].tolist()}, its module gave {value[0].tolist()}"
        )
    assert torch.equal(result, model(x)), "recording changed what the model computes"


@pytest.mark.exercise("5.10")
def test_no_hook_is_left_however_the_block_ends():
    """Hooks that stay record every later forward too: memory grows, and losses count twice."""
    model, x = network(), torch.randn(4, 3)
    with hooks.recording(model, ["0.0"]) as calls:
        model(x)
    model(x)
    assert n_hooks(model) == 0, f"{n_hooks(model)} hooks are left after the block, expected 0"
    assert len(calls["0.0"]) == 1, (
        f"a forward after the block was recorded: {len(calls['0.0'])} records, expected 1"
    )
    try:
        with hooks.recording(model, ["0.0", "1"]):
            model(torch.randn(4, 7))
    except RuntimeError:
        pass
    assert n_hooks(model) == 0, (
        f"{n_hooks(model)} hooks are left after a forward that raised, expected 0"
    )


@pytest.mark.exercise("5.10")
def test_a_loss_on_what_was_recorded_reaches_the_layers_below():
    """Recorded without its graph, a feature loss falls on paper and teaches nothing."""
    model, x = network(), torch.randn(4, 3)
    with hooks.recording(model, ["0.1"]) as calls:
        model(x)
    recorded = calls["0.1"][0]
    assert recorded.requires_grad, "the recorded output has no graph: requires_grad is False"
    recorded.square().sum().backward()
    below, above = model[0][0].weight.grad, model[1][0].weight.grad
    assert below is not None, "the layer below the tap has gradient None, expected numbers"
    assert above is None, f"the layer above the tap has gradient {above}, expected None"
    model.zero_grad(set_to_none=True)
    with hooks.recording(model, ["0.1"]):
        result = model(x)
    result.sum().backward()
    below = model[0][0].weight.grad
    assert below is not None, (
        "with a tap above it, a layer's gradient of the model's own loss is None, expected numbers"
    )


@pytest.mark.exercise("5.10")
def test_a_module_called_twice_has_two_records_in_order():
    """Layers that share weights are one module: its last output is not the others'."""
    shared = nn.Linear(3, 3)
    model, x = nn.Sequential(shared, shared), torch.randn(2, 3)
    with hooks.recording(model, ["0"]) as calls:
        model(x)
    found = calls["0"]
    assert len(found) == 2, f"the module was called twice and has {len(found)} records"
    expected = [shared(x), shared(shared(x))]
    for place, (got, want) in enumerate(zip(found, expected)):
        assert torch.equal(got, want), f"call {place}: {got.tolist()}, expected {want.tolist()}"


def test_an_unknown_path_is_refused_and_near_ones_are_named():
    """A path with a typing error must not become a loss of nothing."""
    model = network()
    with pytest.raises(InputError, match=r"no module at '0.2'; near it: .*0\.[01]"):
        hooks.Taps(model, ["0.2"])
    with pytest.raises(InputError, match="one at least"):
        hooks.Taps(model, [])
    with pytest.raises(InputError, match="one at least"):
        hooks.Taps(model, "0.0")
    with pytest.raises(InputError, match="'0' more than once"):
        hooks.Taps(model, ["0", "1", "0"])


def test_taps_read_a_nested_path_of_an_encoder(tiny_teacher, tiny_texts):
    """The output of layer i is hidden_states[i + 1] of transformers, and its input [i]."""
    batch = tiny_texts.batch(torch.arange(4).numpy())
    paths = [f"encoder.encoder.layer.{i}" for i in range(4)]
    with (
        torch.no_grad(),
        hooks.Taps(tiny_teacher, paths) as outputs,
        hooks.Taps(tiny_teacher, paths, inputs=True) as inputs,
    ):
        states = tiny_teacher.encoder(
            batch.input_ids, batch.attention_mask, output_hidden_states=True
        ).hidden_states
    for layer, path in enumerate(paths):
        assert torch.equal(outputs[path], states[layer + 1])
        assert torch.equal(inputs[path], states[layer])
        assert not outputs[path].requires_grad


def test_inputs_given_by_name_are_recorded():
    """Some models hand hidden states over as a keyword."""

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = Part()

        def forward(self, x):
            return self.part(states=x)

    class Part(nn.Module):
        def forward(self, states):
            return {"states": states + 1, "other": None}

    x = torch.randn(2)
    with hooks.Taps(Named(), ["part"], inputs=True) as given, hooks.Taps(Named(), ["part"]):
        given.model(x)
    assert given["part"] is x
    model = Named()
    with hooks.Taps(model, ["part"]) as taps:
        model(x)
    assert torch.equal(taps["part"], x + 1)


def test_an_output_without_a_tensor_is_refused():
    """A loss cannot be made of it, so it must not be recorded in silence."""

    class Wordy(nn.Module):
        def forward(self, x):
            return "text"

    model = nn.Sequential(Wordy())
    with pytest.raises(InputError, match="gave str"), hooks.Taps(model, ["0"]):
        model(torch.zeros(1))
    assert n_hooks(model) == 0


def test_taps_refuse_what_has_no_one_answer():
    """No call, several calls, a path that is not tapped, a second entry."""
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, shared)
    taps = hooks.Taps(model, ["0"])
    with pytest.raises(InputError, match="called 0 times"):
        taps["0"]
    with taps:
        with pytest.raises(InputError, match="open already"):
            taps.__enter__()
        model(torch.randn(2, 3))
        with pytest.raises(InputError, match="called 2 times"):
            taps["0"]
        taps.clear()
        shared(torch.randn(2, 3))
        assert taps["0"].shape == (2, 3)
    assert n_hooks(model) == 0
    with pytest.raises(InputError, match="not tapped"):
        taps["1"]
    with taps:
        assert taps.calls == {"0": []}


def test_a_batch_is_freed_with_its_taps_and_its_loss():
    """Whatever still holds a recorded tensor holds that batch's whole graph."""
    model = network()

    def step():
        with hooks.Taps(model, ["0", "1"]) as taps:
            model(torch.randn(8, 3))
        loss = taps["0"].square().mean()
        loss.backward()
        return weakref.ref(taps["0"])

    gc.disable()
    try:
        assert step()() is None
    finally:
        gc.enable()


def test_autocast_changes_the_type_and_nothing_else():
    """Taps come as the model computed them: bfloat16 where a product was cast."""
    model, x = network(), torch.randn(4, 3)
    with hooks.Taps(model, ["0.0"]) as taps, torch.autocast("cpu", torch.bfloat16):
        model(x)
    assert taps["0.0"].dtype == torch.bfloat16
    assert taps["0.0"].requires_grad


def test_a_tapped_model_is_saved_copied_and_pickled_as_any_other():
    """The deployed student carries no trace of how it learned."""
    model, x = network(), torch.randn(4, 3)
    before = pickle.dumps(model)
    with hooks.Taps(model, ["0", "1.1"]):
        model(x)
    assert pickle.dumps(model) == before
    assert n_hooks(copy.deepcopy(model)) == 0
    assert list(model.state_dict()) == list(network().state_dict())


@pytest.mark.slow  # the compiler takes seconds to import
def test_a_compiled_model_is_refused_rather_than_read_as_empty():
    """torch.compile does not call hooks that came after it compiled, and says nothing."""
    model, x = network(), torch.randn(4, 3)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    with hooks.Taps(model, ["0"]) as taps:
        compiled(x)
    with pytest.raises(InputError, match="called 0 times"):
        taps["0"]
