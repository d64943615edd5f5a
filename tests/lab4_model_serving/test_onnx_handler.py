"""The handler with TorchServe's own context: batches, bad requests, padding."""

import json

import onnx
import pytest
from onnx import TensorProto, helper
from ts.context import Context, RequestProcessor

from common.errors import RunError
from labs.lab4_model_serving.tensor_handler import TensorHandler


def context_of(folder, requests: int) -> Context:
    context = Context("m", str(folder), None, 8, None, "0.12.0")
    context.request_processor = [RequestProcessor({}) for _ in range(requests)]
    return context


def answer(handler, folder, bodies):
    context = context_of(folder, len(bodies))
    answers = handler.handle([{"body": body} for body in bodies], context)
    return answers, [context.get_response_status(i)[0] for i in range(len(bodies))]


@pytest.fixture
def summing(tmp_path):
    """A model that sums the tokens of each row, and its handler."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["ids", "axes"], ["total"], keepdims=0)],
        "sum",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("total", TensorProto.INT64, ["batch"])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "sum.onnx")
    handler = TensorHandler()
    handler.initialize(context_of(tmp_path, 0))
    return handler, tmp_path


def test_every_request_gets_its_own_rows_back(summing):
    """Requests of different numbers of rows and lengths share one run, padded with zeros."""
    handler, folder = summing
    bodies = [
        {"inputs": {"ids": [[1, 2, 3]]}},
        {"inputs": {"ids": [[4], [5]]}},
        json.dumps({"inputs": {"ids": [[6, 7]]}}).encode(),
    ]
    answers, statuses = answer(handler, folder, bodies)
    assert [each["outputs"]["total"] for each in answers] == [[6], [4, 5], [13]]
    assert statuses == [200, 200, 200]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{not json", "not JSON"),
        ({"input": 1}, "expected a JSON object"),
        ({"inputs": {"words": [[1]]}}, "expected inputs ['ids']"),
        ({"inputs": {"ids": [1, 2]}}, "must have shape"),
        ({"inputs": {"ids": [[1.5]]}}, "must be int64"),
        ({"inputs": {"ids": [[1], [2, 3]]}}, "not rectangular"),
        ({"inputs": {"ids": []}}, "must have shape"),
        (None, "expected a JSON object"),
    ],
)
def test_a_bad_request_gets_400_and_its_batch_mates_are_answered(summing, body, says):
    handler, folder = summing
    good = {"inputs": {"ids": [[1, 1]]}}
    answers, statuses = answer(handler, folder, [good, body, good])
    assert statuses == [200, 400, 200]
    assert says in answers[1]["error"]["message"]
    assert answers[1]["error"]["code"] == 400
    assert [answers[i]["outputs"]["total"] for i in (0, 2)] == [[2], [2]]


def test_an_archive_needs_exactly_one_model(tmp_path):
    with pytest.raises(RunError, match="exactly one"):
        TensorHandler().initialize(context_of(tmp_path, 0))


def test_a_run_that_fails_is_told_apart_from_a_bad_request(summing, monkeypatch):
    """A fault of the model is 500, with nothing of the inside in the message."""
    handler, folder = summing

    def broken(session, inputs):
        raise RuntimeError("out of the secret memory")

    monkeypatch.setattr("labs.lab4_model_serving.onnx_handler.run", broken)
    answers, statuses = answer(handler, folder, [{"inputs": {"ids": [[1]]}}, {}])
    assert statuses == [500, 400]
    assert "secret" not in str(answers[0])
