"""Export, sessions, and the parity gate."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from common.errors import InputError, RunError
from labs.lab4_model_serving.export import (
    export_onnx,
    export_program,
    load_program,
    parity,
    require_parity,
    run,
    run_program,
    session,
)


class MeanOfTokens(torch.nn.Module):
    """Embeds integer tokens, averages the unmasked ones: the shape of a text encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 8)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        weight = attention_mask.unsqueeze(-1).to(torch.float32)
        return self.head((self.embedding(input_ids) * weight).sum(1) / weight.sum(1))


def tokens(batch: int, length: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(0, 50, (batch, length), generator=generator),
        "attention_mask": torch.ones(batch, length, dtype=torch.int64),
    }


DYNAMIC = {name: {0: "batch", 1: "tokens"} for name in ("input_ids", "attention_mask")}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model = MeanOfTokens().train()
    path = tmp_path_factory.mktemp("onnx") / "below" / "encoder.onnx"
    export_onnx(model, tokens(2, 5), path, output_names=["logits"], dynamic=DYNAMIC)
    assert model.training, "the export must leave the model as it found it"
    return model.eval(), path


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 9), (7, 3), (32, 40)])
def test_the_export_answers_as_pytorch_does_at_other_sizes(exported, batch, length):
    model, path = exported
    inputs = tokens(batch, length, seed=1)
    with torch.no_grad():
        reference = {"logits": model(**inputs).numpy()}
    answers = run(session(path), {name: value.numpy() for name, value in inputs.items()})
    require_parity(parity(reference, answers), max_abs_error=1e-5, min_agreement=1.0)


def test_the_file_is_whole_and_alone(exported):
    _, path = exported
    assert [each.name for each in path.parent.iterdir()] == ["encoder.onnx"]
    assert session(path).get_inputs()[0].shape == ["batch", "tokens"]


def test_a_dynamic_axis_of_size_one_is_refused(tmp_path):
    with pytest.raises(InputError, match="size 1"):
        export_onnx(
            MeanOfTokens(),
            tokens(1, 5),
            tmp_path / "m.onnx",
            output_names=["logits"],
            dynamic=DYNAMIC,
        )


def test_a_dynamic_axis_of_an_unknown_input_is_refused(tmp_path):
    with pytest.raises(InputError, match="'ids'"):
        export_onnx(
            MeanOfTokens(),
            tokens(2, 5),
            tmp_path / "m.onnx",
            output_names=["logits"],
            dynamic={"ids": {0: "batch"}},
        )


def test_a_session_names_what_is_missing(exported, tmp_path):
    with pytest.raises(InputError, match="no ONNX model"):
        session(tmp_path / "absent.onnx")
    with pytest.raises(InputError, match="'cpu' or 'cuda'"):
        session(exported[1], device="tpu")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        with pytest.raises(InputError, match="onnxruntime-gpu"):
            session(exported[1], device="cuda")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    torch.manual_seed(0)
    model = MeanOfTokens().train()
    path = tmp_path_factory.mktemp("program") / "below" / "encoder.pt2"
    export_program(model, tokens(2, 5), path, dynamic=DYNAMIC, longest={"tokens": 40})
    assert model.training, "the capture must leave the model as it found it"
    assert [each.name for each in path.parent.iterdir()] == ["encoder.pt2"]
    return model.eval(), load_program(path)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 9), (7, 3), (32, 40)])
def test_a_program_that_was_read_back_answers_as_pytorch_does(program, batch, length):
    model, loaded = program
    inputs = {name: each.numpy() for name, each in tokens(batch, length, seed=1).items()}
    answers = [{"y": run_program(each, inputs)} for each in (model, loaded.module())]
    require_parity(parity(*answers), max_abs_error=1e-6, min_agreement=1.0)


def test_a_program_checks_what_it_took_for_granted(program):
    """A trace would answer: more tokens than there are positions, or inputs that do not fit."""
    module = program[1].module()
    with pytest.raises(Exception, match=r"(?i)guard|expected|<= 40"):
        module(*tokens(2, 41).values())
    ids = tokens(2, 5)["input_ids"]
    with pytest.raises(Exception, match=r"(?i)guard|expected|=="):
        module(ids, tokens(2, 6)["attention_mask"])


def test_what_cannot_be_captured_or_read_is_one_error(tmp_path):
    class Branches(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(RunError, match="cannot capture Branches"):
        export_program(Branches(), {"x": torch.ones(2, 2)}, tmp_path / "m.pt2", dynamic={})
    with pytest.raises(InputError, match="size 1"):
        export_program(MeanOfTokens(), tokens(1, 5), tmp_path / "m.pt2", dynamic=DYNAMIC)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no exported program"):
        load_program(tmp_path / "m.pt2")


def test_parity_measures_the_worst_output():
    reference = {"a": np.zeros((4, 3)), "b": np.eye(4)}
    candidate = {"a": np.zeros((4, 3)), "b": np.eye(4) * 0.5}
    measured = parity(reference, candidate)
    assert (measured.max_abs_error, measured.worst_output, measured.n) == (0.5, "b", 4)
    assert measured.mean_abs_error == pytest.approx(2 / 28)
    assert measured.argmax_agreement == 1
    with pytest.raises(RunError, match=r"'b' differs by 0\.5, the limit is 0\.1"):
        require_parity(measured, max_abs_error=0.1)


def test_a_nan_does_not_pass_the_gate():
    """NaN compares false with every limit, so `error > limit` would let it through."""
    measured = parity({"y": np.zeros((2, 2))}, {"y": np.array([[0, np.nan], [0, 0]])})
    with pytest.raises(RunError):
        require_parity(measured, max_abs_error=1e9)


def test_the_gate_on_decisions():
    reference = {"y": np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])}
    measured = parity(reference, {"y": reference["y"][:, ::-1]})
    with pytest.raises(RunError, match=r"0\.0000 of 4 rows"):
        require_parity(measured, min_agreement=0.99)
    with pytest.raises(InputError, match="needs max_abs_error"):
        require_parity(measured)


def test_different_outputs_cannot_be_compared():
    with pytest.raises(InputError, match="outputs"):
        parity({"a": np.zeros(2)}, {"b": np.zeros(2)})
    with pytest.raises(InputError, match="shape"):
        parity({"a": np.zeros((2, 1))}, {"a": np.zeros((2, 2))})
    with pytest.raises(InputError, match="nothing to compare"):
        parity({"a": np.zeros((0, 2))}, {"a": np.zeros((0, 2))})
