"""A shadow compares, and nobody notices: no wait, no failure, no growth."""

import asyncio
import threading

import pytest

from common.errors import InputError
from labs.lab4_model_serving.predictor import Answer
from labs.lab4_model_serving.shadow import Shadow


class Echo:
    """Answers with the text; waits for ``gate``, and fails on the text "fail"."""

    version = "2.0"

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.runs = []

    def predict(self, texts):
        self.gate.wait(10)
        self.runs.append(list(texts))
        if "fail" in texts:
            raise RuntimeError("a bug of the new version")
        return [Answer(text, 1.0) for text in texts]


def run(scenario, predictor, **options):
    """The report after ``scenario(shadow)``."""

    async def main():
        shadow = Shadow(predictor, options.pop("share", 1.0), **options)
        try:
            await scenario(shadow)
            return shadow.report()
        finally:
            predictor.gate.set()
            await shadow.close()

    return asyncio.run(main())


def test_agreement_is_counted_and_disagreements_are_kept_without_their_texts():
    """2 of 3 agree; the third is named by its request id. The text may be somebody's secret."""

    async def scenario(shadow):
        for i, (text, label) in enumerate([("a", "a"), ("b", "b"), ("secret", "c")]):
            shadow.offer(str(i), text, "1.0", Answer(label, 0.5), 0.002)
        await shadow.settle()

    report = run(scenario, Echo())
    assert (report.copied, report.compared, report.agreed, report.failed) == (3, 3, 2, 0)
    assert report.agreement == pytest.approx(2 / 3)
    assert [(each.request_id, each.live) for each in report.disagreements] == [("2", "c")]
    assert report.live_p50_ms == pytest.approx(2)
    assert report.shadow_p50_ms is not None


def test_a_shadow_that_stands_still_costs_nothing_but_its_copies():
    """With the shadow blocked, offers return, wait nowhere, and beyond its queue are dropped.

    A copy that waits for a place in a queue is a live request that waits.
    """
    predictor = Echo()
    predictor.gate.clear()

    async def scenario(shadow):
        for i in range(100):
            shadow.offer(str(i), "text", "1.0", Answer("text", 0.5), 0.002)
            await asyncio.sleep(0)
        stuck = shadow.report()
        assert stuck.compared == 0
        assert stuck.dropped == 100 - 10 - 1, f"{stuck.dropped} dropped of 100, 10 wait, 1 runs"
        predictor.gate.set()
        await shadow.settle()

    report = run(scenario, predictor, max_queue=10, max_batch=4)
    assert report.copied == 100
    assert report.compared == 11
    assert max(len(batch) for batch in predictor.runs) == 4


def test_a_shadow_that_fails_is_a_count():
    """An exception of the new version reaches the report and nothing else; it goes on after it."""

    async def scenario(shadow):
        for text in ("fail", "fine"):
            shadow.offer(text, text, "1.0", Answer(text, 0.5), 0.002)
            await shadow.settle()

    report = run(scenario, Echo())
    assert (report.failed, report.compared, report.agreed) == (1, 1, 1)


def test_the_sample_is_the_share_and_the_same_again():
    """About the share is copied, by request id: a retry is not compared twice or by chance."""

    async def scenario(shadow):
        for i in range(4000):
            shadow.offer(f"request-{i}", "t", "1.0", Answer("t", 0.5), 0.002)

    first = run(scenario, Echo(), share=0.1, max_queue=5000)
    again = run(scenario, Echo(), share=0.1, max_queue=5000)
    assert 300 < first.copied < 500
    assert first.copied == again.copied


def test_a_closed_shadow_takes_nothing_and_ends_its_thread():
    """After the comparison is over no thread and no copy is left."""
    predictor = Echo()

    async def scenario(shadow):
        await shadow.close()
        shadow.offer("a", "a", "1.0", Answer("a", 0.5), 0.002)

    report = run(scenario, predictor)
    assert report.copied == 0
    assert not any(thread.name.startswith("shadow") for thread in threading.enumerate())


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    """0 is no shadow, and 1.1 is a percentage by mistake."""
    with pytest.raises(InputError, match="share"):
        Shadow(Echo(), share)
