"""What a request may be: every refusal has its status, and nothing else gets through."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labs.lab4_model_serving.predictor import Answer
from labs.lab4_model_serving.protocol import (
    JSON,
    HttpError,
    Limits,
    Request,
    Route,
    Token,
    answer_body,
    check_token,
    error_response,
    name_of,
    parse_target,
    request_id,
    route_of,
    text_of,
)


def refused(status, call, *arguments):
    with pytest.raises(HttpError) as error:
        call(*arguments)
    assert error.value.status == status, error.value.message
    return error.value


def outcome(call, *arguments):
    """What the call returns, or the status with which it refuses."""
    try:
        return call(*arguments)
    except HttpError as error:
        return error.status


@pytest.mark.parametrize(
    ("target", "path", "route"),
    [
        (b"/ping", "/ping", None),
        (b"/predictions/intents", "/predictions/intents", Route("intents")),
        (b"/predictions/intents/2.0?x=1#y", "/predictions/intents/2.0", Route("intents", "2.0")),
        (b"/predictions/int%65nts", "/predictions/intents", Route("intents")),
        (b"/predictions/a%20b", "/predictions/a b", Route("a b")),
        (b"/predictions/a%2Fb", "/predictions/a%2Fb", Route("a%2Fb")),
        (b"/predictions/", "/predictions/", None),
        (b"/predictions//1", "/predictions//1", None),
        (b"/predictions/a/b/c", "/predictions/a/b/c", None),
        (b"http://host:1/ping", "/ping", None),
    ],
)
def test_a_target_is_read_as_a_path(target, path, route):
    """Escapes are decoded once, after the path was split: an escaped slash separates nothing.

    Decoded first, /predictions/a%2F..%2Fadmin would be another route for the server than for the
    proxy that let it through.
    """
    found = parse_target(target)
    assert (found.path, found.route) == (path, route)
    assert route_of(found.path) == route


@pytest.mark.parametrize(
    "target", [b"*", b"ping", b"", b"/a%", b"/a%4", b"/a%zz", b"/a%ff", b"/a%00b", b"/a%0d%0ab"]
)
def test_a_target_that_is_no_path_is_refused(target):
    """Half an escape, bytes that are not UTF-8, NUL, a line break that would reach a log: 400."""
    refused(400, parse_target, target)


def test_a_token_is_compared_whole():
    """Right, wrong, missing, of another scheme, and with characters that no token has."""
    token = Token("secret")
    for right in (b"Bearer secret", b"bearer secret", b"Bearer  secret "):
        token.check(right)
    for wrong in (b"", b"Bearer", b"Bearer secre", b"Bearer secret2", b"Basic secret", b"secret"):
        error = refused(401, token.check, wrong)
        assert error.headers["WWW-Authenticate"].startswith("Bearer")
    refused(401, token.check, b"Bearer \xff\xfe")
    refused(401, check_token, "Bearer \udcff\u20ac", "secret")
    check_token("Bearer secret", "secret")


def test_an_expired_token_says_so():
    """The right token after its end: 401 that names the reason, so that a client renews it."""
    Token("secret", expires=time.time() + 60).check(b"Bearer secret")
    old = Token("secret", expires=time.time() - 1)
    assert "expired" in refused(401, old.check, b"Bearer secret").message
    assert "expired" not in refused(401, old.check, b"Bearer guess").message


def body(text):
    return json.dumps({"text": text}).encode()


def test_a_text_comes_through_unchanged():
    """Other keys are ignored, charset is allowed, any script and emoji are texts."""
    text = "wie hoch ist mein Kontostand 余额 \U0001f4b6"
    content = json.dumps({"text": text, "more": 1}, ensure_ascii=False).encode()
    assert text_of(content, "application/json; charset=utf-8", Limits()) == text


@pytest.mark.parametrize(
    ("status", "content", "content_type"),
    [
        (415, body("a"), "text/plain"),
        (415, body("a"), ""),
        (413, body("a" * 20_000), JSON),
        (413, body("a" * 4001), JSON),
        (400, b"", JSON),
        (400, b"\xff\xfe", JSON),
        (400, b'{"text": "a"', JSON),
        (400, b"[" * 8000, JSON),
        (400, b'{"a":' * 2000, JSON),
        (400, b'["a"]', JSON),
        (400, b"null", JSON),
        (400, b'{"text": 1}', JSON),
        (400, b'{"text": null}', JSON),
        (400, b'{"text": ["a"]}', JSON),
        (400, b'{"TEXT": "a"}', JSON),
        (400, body("  \n"), JSON),
        (400, b'{"text": "\\ud800"}', JSON),
        (400, b'{"text": "a", "n": ' + b"9" * 5000 + b"}", JSON),
    ],
)
def test_a_body_that_is_no_text_is_refused_by_its_kind(status, content, content_type):
    """Too large is 413, another type 415, what cannot be read 400; never another exception."""
    refused(status, text_of, content, content_type, Limits())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace")))
def test_any_body_is_a_text_or_a_refusal(content):
    """Whatever bytes come: a text that is not empty, or a refusal."""
    found = outcome(text_of, content, JSON, Limits())
    assert found in (400, 413) if isinstance(found, int) else found.strip()


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.binary(max_size=60))
def test_any_target_is_a_path_or_a_refusal(target):
    """Whatever bytes the request line holds, no other exception leaves the parser."""
    found = outcome(parse_target, b"/" + target)
    assert found == 400 if isinstance(found, int) else found.path.isprintable()


def test_an_id_is_kept_only_if_a_log_can_hold_it():
    """Short, letters, digits, hyphens; anything else gets a new id, and no two are the same."""
    assert request_id(b"abc-123") == "abc-123"
    made = {request_id(given) for given in (b"", b"a b", b"a\nb", b"x" * 65, b"\xe4", b"---")}
    assert len(made) == 6
    assert Request("GET", b"/", {b"x-request-id": b"mine"}, b"").id == "mine"
    assert name_of(b"user@example.org") == "user@example.org"
    assert [name_of(bad) for bad in (b"", b"\x01", b"\xff", b"n" * 65)] == [""] * 4


def test_an_answer_is_json_with_its_label_quoted():
    """A label may hold quotes; a probability of NaN is an error here, not bad JSON there."""
    found = json.loads(answer_body(Answer('the "best"', 0.25), "1.0"))
    assert found == {"label": 'the "best"', "probability": 0.25, "version": "1.0"}
    for broken in (float("nan"), float("inf"), -0.1):
        with pytest.raises(ValueError, match="probability"):
            answer_body(Answer("a", broken), "1.0")


def test_an_error_is_json_with_its_request():
    """code, message, request_id; a header that closes the connection is an order to the server."""
    response = error_response(
        HttpError(413, 'a "b"', {"Connection": "close", "Allow": "GET"}), "r1"
    )
    assert json.loads(response.body) == {
        "error": {"code": 413, "message": 'a "b"', "request_id": "r1"}
    }
    assert response.close
    assert dict(response.headers) == {
        "content-type": JSON, "x-request-id": "r1", "Allow": "GET"
    }  # fmt: skip
