"""The catalogue of this topic: each honest method passes its gate, each flawed one does not."""

from __future__ import annotations

import pytest

from labs.lab6_online_eval.methods_longterm import methods
from labs.lab6_online_eval.validation import Method, validate


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_a_method_is_offered_exactly_if_it_is_honest(method: Method) -> None:
    verdict = validate(method, n=500)
    assert verdict.offered is not method.flawed, verdict.reasons
    if method.flawed:
        assert verdict.fpr > 0.2
        assert verdict.coverage < 0.8
