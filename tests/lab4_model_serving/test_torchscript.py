"""Trace, script, freeze: what they keep, and what they lose without a word."""

import pytest
import torch

from common.errors import InputError, RunError
from labs.lab4_model_serving.encoder import TextClassifier
from labs.lab4_model_serving.torchscript import freeze, load, losses, save, script, trace


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TextClassifier(classes=5, vocabulary=100, width=16, heads=2, inner=32, positions=64)


def inputs(batch: int, length: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + length)
    ids = torch.randint(1, 100, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, length // 2 + 1 :] = 0
    return [ids, mask]


@pytest.fixture(scope="module")
def modules(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("script")
    made = {"trace": trace(model, inputs(2, 8)), "script": script(model)}
    made["freeze"] = freeze(script(model))
    return {name: load(save(each, folder / f"{name}.pt")) for name, each in made.items()}


@pytest.mark.parametrize("road", ["trace", "script", "freeze"])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 9), (7, 3), (4, 64)])
def test_the_labs_encoder_survives_every_road_at_other_shapes(model, modules, road, batch, length):
    """Its forward has neither branches nor numbers made of sizes: written so on purpose."""
    given = inputs(batch, length)
    with torch.inference_mode():
        torch.testing.assert_close(modules[road](*given), model.eval()(*given))


def test_what_python_decided_is_lost_by_tracing_and_refused_by_export():
    """A trace answers wrong in silence for each habit; torch.export refuses to capture it."""
    outcomes = {(each.habit, each.road): each.outcome for each in losses()}
    for habit in ("branch on values", "loop over the length", "size as a number"):
        assert outcomes[habit, "trace"] == "wrong answer", habit
        assert outcomes[habit, "script"] == "kept", habit
        assert outcomes[habit, "torch.export"] == "refused", habit
    assert outcomes["call outside torch", "trace"] == "wrong answer"
    assert outcomes["call outside torch", "script"] == "refused"


def test_a_trace_is_made_in_evaluation_mode_and_leaves_the_model_as_it_was(model):
    """Traced in training mode, dropout is part of the graph for good; eval() does not undo it."""
    model.train()
    given = inputs(2, 8)
    traced = trace(model, given)
    assert model.training
    assert torch.equal(traced(*given), traced(*given))
    model.eval()
    assert torch.equal(traced(*given), model(*given))


def test_freezing_leaves_no_parameters_and_no_other_method(model, modules):
    assert len(list(modules["script"].parameters())) == len(list(model.parameters()))
    assert list(modules["freeze"].parameters()) == []
    assert hasattr(modules["script"], "encode")
    assert not hasattr(modules["freeze"], "encode")


def test_a_file_is_whole_or_absent(model, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(torch.jit, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        save(script(model), tmp_path / "m.pt")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no TorchScript"):
        load(tmp_path / "m.pt")


def test_source_that_does_not_compile_is_one_error():
    class UsesAGenerator(torch.nn.Module):
        def forward(self, x):
            yield x

    with pytest.raises(RunError, match="UsesAGenerator cannot be scripted"):
        script(UsesAGenerator())
