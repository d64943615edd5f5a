"""One bad request in a batch fails alone, and everybody gets their own answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab4_model_serving import batch_isolation
from labs.lab4_model_serving.batch_isolation import BadRequest, Outcome

BAD, POISON = "bad", "poison"


def parse(request):
    if request == BAD:
        raise BadRequest("not this one", 413)
    return f"parsed {request}"


class Model:
    """Answers a batch; fails whole when a poisoned example is in it. Remembers its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, examples):
        self.calls.append(list(examples))
        if f"parsed {POISON}" in examples:
            raise MemoryError("the secret of the house")
        return [f"answer to {example}" for example in examples]


def expected(request):
    if request == BAD:
        return 413, "not this one"
    if request == POISON:
        return 500, "the model could not answer this request"
    return 200, f"answer to parsed {request}"


def got(requests, model):
    outcomes = batch_isolation.answer_batch(requests, parse, model)
    return [(outcome.status, outcome.body) for outcome in outcomes]


@pytest.mark.exercise("4.11")
def test_a_bad_request_gets_its_own_refusal_and_shifts_nobody():
    """Answers go back by position. One that is left out gives everybody after it a stranger's."""
    model = Model()
    requests = [BAD, "a", "b", BAD, "c", BAD]
    found, wanted = got(requests, model), [expected(request) for request in requests]
    assert found == wanted, f"requests {requests} got {found}, expected {wanted}"
    calls = [["parsed a", "parsed b", "parsed c"]]
    assert model.calls == calls, f"the model was called with {model.calls}, expected {calls}"


@pytest.mark.exercise("4.11")
def test_a_request_that_fails_the_run_fails_alone():
    """A run fails as a whole; whoever caused it is found by running each alone."""
    model = Model()
    requests = ["a", POISON, BAD, "b"]
    found, wanted = got(requests, model), [expected(request) for request in requests]
    assert found == wanted, f"requests {requests} got {found}, expected {wanted}"
    assert len(model.calls) == 4, f"one run of three and each alone, got {model.calls}"
    error = batch_isolation.answer_batch([POISON], parse, model)[0].error
    assert isinstance(error, MemoryError), f"the log needs the cause, got {error!r}"


@pytest.mark.exercise("4.11")
def test_a_model_that_loses_an_answer_answers_nobody_wrongly():
    """With fewer answers than examples nobody knows whose they are: each is asked alone."""
    calls = []

    def forgetful(examples):
        calls.append(list(examples))
        return [example.upper() for example in examples][: max(1, len(examples) - 1)]

    outcomes = batch_isolation.answer_batch(["a", "b", "c"], parse, forgetful)
    found = [(outcome.status, outcome.body) for outcome in outcomes]
    wanted = [(200, "PARSED A"), (200, "PARSED B"), (200, "PARSED C")]
    assert found == wanted, f"got {found}, expected {wanted}; the model was called with {calls}"
    empty = batch_isolation.answer_batch(["a"], parse, lambda examples: [])
    assert empty[0].status == 500, f"no answer at all is a failure, got {empty[0]}"


@pytest.mark.exercise("4.11")
def test_the_model_is_not_run_for_nothing():
    """A batch of bad requests costs no run, and an empty one neither."""
    model = Model()
    found = got([BAD, BAD], model)
    assert found == [expected(BAD)] * 2, f"got {found}, expected {[expected(BAD)] * 2}"
    assert got([], model) == []
    assert model.calls == [], f"the model was called with {model.calls}, expected no call"


@pytest.mark.exercise("4.11")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(["a", "b", "c", BAD, POISON]), max_size=12))
def test_any_batch_gives_each_request_what_it_would_get_alone(requests):
    """Whoever shares a batch must not matter."""
    found, wanted = got(requests, Model()), [expected(request) for request in requests]
    assert found == wanted, f"requests {requests} got {found}, expected {wanted}"


def test_an_outcome_says_nothing_of_the_inside():
    """The exception goes to the log, not to the client."""
    outcome = batch_isolation.answer_batch([POISON], parse, Model())[0]
    assert isinstance(outcome, Outcome)
    assert "secret" not in outcome.body
