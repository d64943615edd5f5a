"""Several versions in one process: who gets a request, and how a version comes and goes."""

import asyncio
import json
import shutil

import pytest

from common.errors import InputError
from labs.lab4_model_serving import versions
from labs.lab4_model_serving.management import is_management, respond
from labs.lab4_model_serving.predictor import Predictor
from labs.lab4_model_serving.protocol import HttpError
from labs.lab4_model_serving.versions import BatchSettings, LiveModel

SETTINGS = BatchSettings(max_delay_s=0.0, slo_s=30, deadline_s=30)
TEXTS = ["how much money do i have", "wake me at six", "what does arcane mean", "euros in yen"]


@pytest.fixture(scope="module")
def predictors(tiny_bundles):
    return [Predictor(bundle) for bundle in tiny_bundles]


@pytest.fixture(scope="module")
def store(tiny_bundles, tmp_path_factory):
    """A folder with the bundles "first" and "second", and a link that leads out of it."""
    folder = tmp_path_factory.mktemp("models")
    for name, bundle in zip(("first", "second"), tiny_bundles, strict=True):
        shutil.copytree(bundle.folder, folder / "store" / name)
    (folder / "store" / "link").symlink_to(tiny_bundles[0].folder)
    return folder / "store"


def model_of(predictors, **options):
    model = LiveModel("intents", settings=SETTINGS, **options)
    for i, predictor in enumerate(predictors):
        model.add(predictor, SETTINGS, weight=1.0 if i == 0 else 0.0)
    return model


def ask(model, method, path, content=None):
    """Status and content of a management request, or the refusal."""
    body = b"" if content is None else json.dumps(content).encode()
    return asyncio.run(respond(model, method, path, body))


def refused(model, method, path, content=None):
    with pytest.raises(HttpError) as caught:
        ask(model, method, path, content)
    return caught.value


def test_each_version_answers_for_itself(predictors):
    """What a version says through queue and batch is what its Predictor says alone."""

    async def main():
        model = model_of(predictors)
        answers = {
            predictor.version: [
                (await model.predict(text, predictor.version))[0].label for text in TEXTS
            ]
            for predictor in predictors
        }
        await model.drain()
        return answers

    found = asyncio.run(main())
    for predictor in predictors:
        assert found[predictor.version] == [a.label for a in predictor.predict(TEXTS)]
    assert found["1.0"] != found["2.0"]


def test_a_version_that_is_asked_for_is_obeyed_whatever_the_weights(predictors):
    """Weight 0 keeps users away, not the tester who names the version; an unknown one is 404."""
    model = model_of(predictors)
    assert model.choose("user", "2.0") == "2.0"
    assert {model.choose(f"user-{i}") for i in range(50)} == {"1.0"}
    with pytest.raises(HttpError) as caught:
        model.choose("user", "9.9")
    assert caught.value.status == 404


def test_only_requests_whose_version_was_chosen_are_counted_and_shadowed(predictors):
    """A tester who asks for 2.0 a thousand times must not decide a rollout."""

    async def main():
        model = model_of(predictors)
        await model.set_shadow("2.0", 1.0)
        await model.predict(TEXTS[0], "2.0", request_id="asked", counted=False)
        await model.predict(TEXTS[0], "1.0", request_id="chosen", counted=True)
        await asyncio.sleep(0)
        await model.shadow.settle()
        report = model.shadow.report()
        await model.drain()
        return model.windows.windows(), report

    windows, report = asyncio.run(main())
    assert {version: window.requests for version, window in windows.items()} == {"1.0": 1}
    assert report.compared == 1


@pytest.mark.parametrize(("slow_s", "counted"), [(0.01, 1), (30.0, 0)])
def test_a_client_that_gave_up_waiting_was_failed_and_one_in_a_hurry_was_not(
    predictors, slow_s, counted
):
    """A version that hangs answers nobody: all that is seen of it is clients that leave.

    Not counting them, a rollout would wait for ever. Who leaves within the limit tells nothing.
    """

    async def main():
        model = model_of(predictors, delays={"1.0": 0.1})
        model.windows.reset(slow_s)
        future = model.submit(TEXTS[0], "1.0", request_id="gone", counted=True)
        await asyncio.sleep(0.03)
        future.cancel()
        await asyncio.sleep(0)
        await model.drain()
        return model.windows.windows()

    windows = asyncio.run(main())
    found = windows["1.0"] if windows else None
    seen = (found.requests, found.errors, found.slow) if found else (0, 0, 0)
    assert seen == (counted,) * 3, f"{seen} with a limit of {slow_s} s"


def test_shadows_that_are_set_at_the_same_time_leave_one(predictors, monkeypatch):
    """Two PUTs while the first shadow ends its run: of all that were used one is not closed."""
    used = set()

    class Recorded(versions.Shadow):
        def offer(self, *copy):
            used.add(self)
            super().offer(*copy)

        async def close(self):
            await asyncio.sleep(0)  # a run under way: others get their turn, and requests come
            offer(self.model.shadow)
            await super().close()

    monkeypatch.setattr(versions, "Shadow", Recorded)
    answer = predictors[0].predict(TEXTS[:1])[0]

    def offer(shadow):
        if shadow:
            shadow.offer("id", TEXTS[0], "1.0", answer, 0.001)

    async def main():
        Recorded.model = model = model_of(predictors)
        await model.set_shadow("2.0", 1.0)
        offer(model.shadow)
        await asyncio.gather(*(model.set_shadow("2.0", 1.0) for _ in range(2)))
        offer(model.shadow)
        kept = model.shadow
        with pytest.raises(InputError, match="share"):
            await model.set_shadow("2.0", 2.0)
        assert model.shadow is kept, "a mistake must not stop the shadow"
        left = [shadow for shadow in used if not shadow._closed]
        await model.drain()
        return left, kept

    left, kept = asyncio.run(main())
    assert left == [kept], f"{len(left)} of {len(used)} shadows were left running"


def test_a_shadow_whose_version_leaves_meanwhile_is_refused(predictors, monkeypatch):
    """Between the question and the change the version may be unloaded: looked up again."""

    async def main():
        model = model_of(predictors)
        await model.set_shadow("1.0", 0.5)
        end = asyncio.Event()
        settle = model.shadow.settle
        monkeypatch.setattr(model.shadow, "settle", end.wait)
        change = asyncio.create_task(model.set_shadow("2.0", 0.5))
        await asyncio.sleep(0)
        await model.remove("2.0")
        end.set()
        with pytest.raises(InputError, match=r"no version 2\.0"):
            await change
        assert model.shadow is None
        await settle()
        await model.drain()

    asyncio.run(main())


def test_a_version_that_leaves_answers_what_it_has_first(predictors):
    """Requests that are queued when a version is removed get its answer, and no error."""

    async def main():
        model = model_of(predictors, delays={"1.0": 0.05})
        waiting = [asyncio.create_task(model.predict(text, "1.0")) for text in TEXTS * 5]
        await asyncio.sleep(0)
        model.set_weights({"2.0": 1})
        await model.remove("1.0")
        done_at_removal = sum(task.done() for task in waiting)
        answers = [answer.label for answer, _ in await asyncio.gather(*waiting)]
        with pytest.raises(HttpError) as caught:
            await model.predict(TEXTS[0], "1.0")
        await model.drain()
        return done_at_removal, answers, caught.value.status

    done, answers, status = asyncio.run(main())
    assert answers == [a.label for a in predictors[0].predict(TEXTS)] * 5
    assert done >= 16, f"only {done} of 20 were answered when the removal returned"
    assert status == 503


def test_a_version_with_weight_or_a_shadow_is_not_removed(predictors):
    """Taking away what users are sent to is a mistake of the operator, so it is refused."""

    async def main():
        model = model_of(predictors)
        with pytest.raises(InputError, match="still has weight"):
            await model.remove("1.0")
        await model.set_shadow("2.0", 0.5)
        with pytest.raises(InputError, match="is the shadow"):
            await model.remove("2.0")
        await model.stop_shadow()
        await model.remove("2.0")
        assert list(model.versions) == ["1.0"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "weights", [{"9.9": 1}, {"1.0": 0}, {}, {"1.0": -1, "2.0": 1}, {"1.0": float("inf")}]
)
def test_bad_weights_change_nothing(predictors, weights):
    """All or nothing: a rollout that stumbles must not leave half of its weights behind."""
    model = model_of(predictors)
    with pytest.raises(InputError):
        model.set_weights(weights)
    assert model.weights == {"1.0": 1.0, "2.0": 0.0}


def test_weights_are_changed_by_the_management_route(predictors):
    """What is set is what is shown, and shares follow it."""
    model = model_of(predictors)
    content = {"weights": {"1.0": 3, "2.0": 1}, "salt": "rollout"}
    status, shown = ask(model, "PUT", "/models/intents", content)
    assert status == 200
    assert {v: each["weight"] for v, each in shown["versions"].items()} == {"1.0": 3, "2.0": 1}
    assert "folder" not in json.dumps(shown), "paths of the server are nobody's business"
    share = sum(model.choose(f"user-{i}") == "2.0" for i in range(4000)) / 4000
    assert share == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/models/other", None, 404),
        ("GET", "/models/intents/nothing", None, 404),
        ("DELETE", "/models/intents", None, 405),
        ("PUT", "/models/intents", {"weights": [1, 2]}, 400),
        ("PUT", "/models/intents", {"weights": {"1.0": "1"}}, 400),
        ("PUT", "/models/intents", {"weights": {"1.0": True}}, 400),
        ("PUT", "/models/intents", {"weights": {"1.0": 1}, "salt": 5}, 400),
        ("PUT", "/models/intents", {"weights": {"1.0": 1}, "salt": "\ud800"}, 400),
        ("PUT", "/models/intents", {"weights": {"1.0": 10**400}}, 400),
        ("PUT", "/models/intents", [], 400),
        ("POST", "/models/intents/windows", {"slow_ms": -1}, 400),
        ("POST", "/models/intents/windows", {"slow_ms": float("nan")}, 400),
        ("PUT", "/models/intents/shadow", {"version": "9.9", "share": 0.5}, 400),
        ("PUT", "/models/intents/shadow", {"version": "2.0", "share": 2}, 400),
        ("PUT", "/models/intents/shadow", {"version": "2.0", "share": 10**400}, 400),
        ("PUT", "/models/intents/shadow", {"version": "\ud800", "share": 0.5}, 400),
        ("GET", "/models/intents/shadow", None, 404),
        ("POST", "/feedback", {"request_id": "a"}, 400),
        ("POST", "/feedback", {"feedback": ["a"]}, 400),
        ("POST", "/feedback", {"request_id": "a", "label": "alarm"}, 404),
        ("GET", "/feedback", None, 405),
    ],
)
def test_a_bad_management_request_is_refused_with_a_status(
    predictors, method, path, content, status
):
    """A clear 4xx and no change, whatever is sent."""
    model = model_of(predictors)
    assert is_management(path)
    refusal = refused(model, method, path, content)
    assert refusal.status == status, refusal.message
    assert model.weights == {"1.0": 1.0, "2.0": 0.0}


def test_loading_is_off_until_a_store_is_named(predictors):
    """403 that says how to switch it on, for loading and unloading alike."""
    model = model_of(predictors)
    for refusal in (
        refused(model, "POST", "/models/intents/versions", {"bundle": "second"}),
        refused(model, "DELETE", "/models/intents/versions/2.0"),
    ):
        assert refusal.status == 403
        assert "--model-store" in refusal.message


@pytest.mark.parametrize(
    ("bundle", "status"),
    [
        ("../store/first", 400),
        ("/etc", 400),
        ("http://example.com/model", 400),
        ("..", 400),
        ("", 400),
        (7, 400),
        ("missing", 404),
        ("link", 404),
    ],
)
def test_a_bundle_comes_from_the_store_or_not_at_all(predictors, store, bundle, status):
    """Names of folders in the store: no path, no address, no link that leads out of it."""
    model = model_of(predictors[:1], store=store)
    refusal = refused(model, "POST", "/models/intents/versions", {"bundle": bundle})
    assert refusal.status == status, refusal.message
    assert list(model.versions) == ["1.0"]


def test_a_version_is_loaded_used_and_unloaded(predictors, store):
    """Loaded without weight; 409 for what is live already, or has weight; gone after unloading."""
    model = model_of(predictors[:1], store=store)
    status, shown = ask(model, "POST", "/models/intents/versions", {"bundle": "second"})
    assert status == 201
    assert shown["versions"]["2.0"]["weight"] == 0
    again = refused(model, "POST", "/models/intents/versions", {"bundle": "second"})
    assert again.status == 409
    assert refused(model, "DELETE", "/models/intents/versions/1.0").status == 409
    assert refused(model, "DELETE", "/models/intents/versions/9.9").status == 404
    status, shown = ask(model, "DELETE", "/models/intents/versions/2.0")
    assert (status, list(shown["versions"])) == (200, ["1.0"])


def test_a_bundle_that_was_changed_is_not_loaded(predictors, store, tmp_path):
    """The seal is checked before the file is opened as a model."""
    shutil.copytree(store / "second", tmp_path / "broken")
    (tmp_path / "broken" / "model.onnx").write_bytes(b"something else")
    model = model_of(predictors[:1], store=tmp_path)
    refusal = refused(model, "POST", "/models/intents/versions", {"bundle": "broken"})
    assert refusal.status == 400
    assert "model.onnx" in refusal.message
