"""One bad request in a batch: it gets its own refusal, and the others their own answers.

A batching server runs strangers' requests together. Whatever one of them sends must not become
the answer, or the failure, of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from common.exercises import exercise

Request = TypeVar("Request")
Example = TypeVar("Example")


class BadRequest(ValueError):
    """The client's mistake. The message goes back to it with ``status`` (400 to 499)."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Outcome:
    """What one request gets: ``body`` is the answer at status 200, else the message."""

    status: int
    body: Any
    error: Exception | None = None
    """What the model raised, for the log; None unless ``status`` is 500."""


@exercise(
    "4.11",
    points=10,
    title="One bad request in a batch",
    hint="Parse each request by itself and remember where the accepted ones stood. Run them "
    "together. When the run fails, or gives another number of answers than it was asked for, "
    "nobody knows whose answer is whose: run each alone.",
)
def answer_batch(
    requests: Sequence[Request],
    parse: Callable[[Request], Example],
    predict: Callable[[list[Example]], Sequence[Any]],
) -> list[Outcome]:
    """One outcome a request, in the order of the requests.

    Parameters
    ----------
    requests
        What a batcher handed over.
    parse
        One request to one example; raises :class:`BadRequest` for a request that cannot be served.
    predict
        Examples [k], k >= 1, to answers [k], in their order. Called once with every accepted
        example. When that call raises, or returns another number of answers, it is called again
        for each example alone, so that only the culprit fails.

    Returns
    -------
    list of Outcome [n]
        Status 200 with the answer; the status and message of a BadRequest; or 500 with a message
        that tells nothing of the inside, and the exception in ``error``.
    """
    outcomes: list[Outcome | None] = [None] * len(requests)
    # BEGIN SOLUTION
    accepted: list[tuple[int, Example]] = []
    for index, request in enumerate(requests):
        try:
            accepted.append((index, parse(request)))
        except BadRequest as error:
            outcomes[index] = Outcome(error.status, str(error))
    if accepted:
        examples = [example for _, example in accepted]
        try:
            answered = [Outcome(200, answer) for answer in _run(predict, examples)]
        except Exception:
            answered = [_run_alone(predict, example) for example in examples]
        for (index, _), outcome in zip(accepted, answered, strict=True):
            outcomes[index] = outcome
    # END SOLUTION
    return [outcome for outcome in outcomes if outcome is not None]


def _run(
    predict: Callable[[list[Example]], Sequence[Any]], examples: list[Example]
) -> Sequence[Any]:
    answers = predict(examples)
    if len(answers) != len(examples):
        raise ValueError(f"{len(examples)} examples got {len(answers)} answers")
    return answers


def _run_alone(predict: Callable[[list[Example]], Sequence[Any]], example: Example) -> Outcome:
    try:
        return Outcome(200, _run(predict, [example])[0])
    except Exception as error:
        return Outcome(500, "the model could not answer this request", error)
