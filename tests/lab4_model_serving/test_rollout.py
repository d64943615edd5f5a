"""A rollout from its file to its end, against a server that is a dictionary."""

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from common.errors import InputError, RunError
from labs.lab4_model_serving import rollout
from labs.lab4_model_serving.management_client import Windows
from labs.lab4_model_serving.rollout import Controller, Rollout, Step, read_rollout
from labs.lab4_model_serving.rollout_policy import Guardrails, Window

ROLLOUT_FILE = Path(rollout.__file__).with_name("rollout.toml")
ROLLOUT = Rollout(
    model="intents",
    old="1.0",
    new="2.0",
    salt="test",
    steps=(Step(0.05, 100, 5), Step(0.5, 500, 5)),
    guardrails=Guardrails(p99_ms=50),
    look_every_s=1,
    give_up_after_s=60,
)
GOOD = {"slow": 0.001, "errors": 0.0, "wrong": 0.07}


class Fake:
    """A server: a second gives 1000 requests, shared by weight; the new version behaves so."""

    def __init__(self, new=GOOD, *, live=("1.0", "2.0")):
        self.now = 1000.0
        self.new, self.live = new, live
        self.weights, self.salt = {"1.0": 1.0}, ""
        self.history, self.fail = [], 0
        self._ids = itertools.count()
        self.begin_window(50)

    def set_weights(self, weights, *, salt=None):
        self._maybe_fail()
        unknown = set(weights) - set(self.live)
        if unknown:
            raise InputError(f"no version {unknown}")
        self.weights, self.salt = dict(weights), salt
        self.history.append(weights.get("2.0", 0.0))

    def begin_window(self, slow_ms):
        self.slow_ms, self.began, self.id = slow_ms, self.now, f"window-{next(self._ids)}"
        return self.id

    def windows(self):
        self._maybe_fail()
        seconds = self.now - self.began
        found = {}
        for version, shares in (("1.0", GOOD), ("2.0", self.new)):
            n = int(1000 * seconds * self.weights.get(version, 0))
            bad = {name: int(n * share) for name, share in shares.items()}
            found[version] = Window(requests=n, labelled=n, **bad)
        return Windows(self.id, found)

    def restart(self):
        """All is lost but the versions."""
        self.weights, self.salt = {"1.0": 1.0}, ""
        self.begin_window(50)

    def _maybe_fail(self):
        if self.fail:
            self.fail -= 1
            raise RunError("the server cannot be reached")


class Killed(Exception):
    """The controller's process is gone."""


def controller(server, folder, *, killed_after=None, rollout=ROLLOUT, at=None):
    """A controller whose sleep moves the server's clock; ``at`` maps sleeps to what happens."""
    sleeps = itertools.count(1)

    def sleep(seconds):
        n = next(sleeps)
        server.now += seconds
        if at and n in at:
            at[n]()
        if n == killed_after:
            raise Killed

    return Controller(rollout, server, folder / "state.json", clock=lambda: server.now, sleep=sleep)


def test_a_good_version_goes_through_its_steps_to_everybody(tmp_path):
    """5 %, 50 %, all; each step as long as it says; the trace tells every look."""
    server = Fake()
    control = controller(server, tmp_path)
    assert control.run() == "promoted", control.reason
    assert server.history == [0.05, 0.5, 1.0]
    assert server.salt == "test"
    assert server.weights == {"2.0": 1.0}
    first_step = [look for look in control.trace if look.step == 0]
    assert first_step[-1].at_s >= 5
    assert [look.action for look in control.trace][-1] == "advance"


@pytest.mark.parametrize(
    ("bad", "name"),
    [({"slow": 0.3}, "p99"), ({"errors": 0.2}, "errors"), ({"wrong": 0.5}, "accuracy")],
)
def test_a_bad_version_goes_back_at_once_and_the_reason_is_kept(tmp_path, bad, name):
    """Within seconds at 5 % of the requests, never a larger share; the file names the guardrail."""
    server = Fake({**GOOD, **bad})
    control = controller(server, tmp_path)
    assert control.run() == "rolled_back"
    assert server.history == [0.05, 0.0]
    assert server.weights == {"1.0": 1.0}
    assert control.trace[-1].at_s <= 5
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["status"] == "rolled_back"
    assert state["reason"].startswith(name)


def test_a_version_that_cannot_prove_itself_is_given_up(tmp_path):
    """1 % slow: never certainly harmful in this time, never safe. In doubt the old one stays."""
    server = Fake({**GOOD, "slow": 0.0101})
    control = controller(server, tmp_path)
    assert control.run() == "rolled_back"
    assert control.reason.startswith("given up: p99: not yet sure")
    assert server.weights == {"1.0": 1.0}


@pytest.mark.parametrize("killed_after", [1, 3, 6, 7, 9])
def test_a_controller_that_was_killed_goes_on_where_it_was(tmp_path, killed_after):
    """Killed at any look, started again: the same end, no step twice, no weight ever lowered."""
    server = Fake()
    with pytest.raises(Killed):
        controller(server, tmp_path, killed_after=killed_after).run()
    control = controller(server, tmp_path)
    assert control.run() == "promoted", control.reason
    assert server.history == sorted(server.history)
    assert sorted(set(server.history)) == [0.05, 0.5, 1.0]
    times = [look.at_s for look in control.trace]
    assert times == sorted(times), "the trace of both controllers is one"
    assert len(times) > killed_after


def test_a_line_cut_off_by_a_crash_costs_that_line_only(tmp_path):
    """The trace is for people; half a line of it must not stop a rollout."""
    server = Fake()
    with pytest.raises(Killed):
        controller(server, tmp_path, killed_after=3).run()
    with (tmp_path / "state.trace.jsonl").open("a") as stream:
        stream.write('\n{"at_s": 3.')
    control = controller(server, tmp_path)
    assert len(control.trace) == 3
    assert control.run() == "promoted", control.reason
    assert len(controller(server, tmp_path).trace) == len(control.trace)


def test_a_decision_that_was_written_is_carried_out_after_a_crash(tmp_path):
    """Killed between "rolled back" in the file and the server's weights: the next run sets them."""
    server = Fake({**GOOD, "errors": 0.5})
    control = controller(server, tmp_path)
    control.run()
    server.weights = {"1.0": 0.95, "2.0": 0.05}
    again = controller(server, tmp_path)
    assert again.run() == "rolled_back"
    assert server.weights == {"1.0": 1.0}
    assert again.reason == control.reason


def test_a_server_that_restarts_gets_its_weights_again_and_the_step_counts_anew(tmp_path):
    """Its windows are gone, so nothing is decided on what was before; users keep their versions."""
    server = Fake()
    control = controller(server, tmp_path, at={3: server.restart})
    assert control.run() == "promoted", control.reason
    assert server.history == [0.05, 0.05, 0.5, 1.0]


def test_a_server_that_cannot_be_reached_is_asked_again(tmp_path):
    """A lost look is no decision."""
    server = Fake()
    control = controller(server, tmp_path, at={2: lambda: setattr(server, "fail", 3)})
    assert control.run() == "promoted", control.reason


def test_a_controller_that_sees_nothing_for_too_long_goes_back(tmp_path):
    """Blind is not safe: when the time is over the old version gets everybody, once it can."""
    server = Fake()
    control = controller(server, tmp_path, at={2: lambda: setattr(server, "fail", 100)})
    assert control.run() == "rolled_back"
    assert control.reason.startswith("given up: the server cannot be reached")
    assert server.weights == {"1.0": 1.0}


def test_a_controller_whose_server_never_comes_back_says_so(tmp_path):
    """Given up after 60 s, it tries to send everybody back for as long again, and then raises.

    The decision stays on disk: started again it has the same time anew, and can carry it out.
    """
    server = Fake()
    server.fail = 10**9
    with pytest.raises(RunError, match=r"could not be told.*cannot be reached"):
        controller(server, tmp_path, killed_after=1000).run()
    assert 120 <= server.now - 1000 <= 125, f"after {server.now - 1000:.0f} s, expected 120"
    assert json.loads((tmp_path / "state.json").read_text())["status"] == "rolled_back"
    server.fail = 5
    assert controller(server, tmp_path).run() == "rolled_back"
    assert server.weights == {"1.0": 1.0}


def test_a_new_version_that_is_not_live_is_rolled_back(tmp_path):
    """A typo in the file must not leave a rollout that runs for ever."""
    server = Fake(live=("1.0",))
    control = controller(server, tmp_path)
    assert control.run() == "rolled_back"
    assert "refused the weights" in control.reason


def test_without_the_old_version_there_is_nothing_to_go_back_to(tmp_path):
    """That is said, and not tried again for ever."""
    with pytest.raises(InputError, match="no version"):
        controller(Fake(live=("9.9",)), tmp_path).run()


def test_the_state_of_another_rollout_is_refused(tmp_path):
    """Going on at step 3 of yesterday's rollout would skip today's canary."""
    controller(Fake(), tmp_path).run()
    with pytest.raises(InputError, match="another rollout"):
        controller(Fake(), tmp_path, rollout=replace(ROLLOUT, salt="other"))
    (tmp_path / "state.json").write_text('{"fingerprint": 1')
    with pytest.raises(InputError, match="no rollout's state"):
        controller(Fake(), tmp_path)


def test_the_file_in_the_repository_is_a_rollout():
    """Three growing steps, and what the lab's story starts from."""
    found = read_rollout(ROLLOUT_FILE)
    assert [step.weight for step in found.steps] == [0.05, 0.25, 0.5]
    assert found.guardrails.p99_ms == 50
    assert json.dumps(asdict(found))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("weight = 0.25", "weight = 0.05"), "ascend"),
        (("weight = 0.5", "weight = 1.0"), "weight"),
        (("weight = 0.5", "wieght = 0.5"), "wieght"),
        (("samples = 60", "samples = 60.5"), "samples"),
        (("samples = 60", 'samples = "60"'), "samples"),
        (("p99_ms = 50.0", "p99_ms = nan"), "p99_ms"),
        (("p99_ms = 50.0", "p99_ms = true"), "p99_ms"),
        (("alpha = 0.05", "alpha = 5"), "alpha"),
        (('new = "2.0"', 'new = "1.0"'), "new"),
        (('salt = "intents 2.0"', 'salt = ""'), "salt"),
        (('old = "1.0"', ""), "old"),
        (('model = "intents"', 'model = "intents'), "rollout file"),
        (("give_up_after_s = 40.0", "give_up_after_s = 0.5"), "give_up_after_s"),
        (("[guardrails]", "[guardrail]"), "guardrail"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, change, named):
    """A misspelt limit that is silently ignored is a limit that is not there."""
    text = ROLLOUT_FILE.read_text()
    assert change[0] in text
    file = tmp_path / "rollout.toml"
    file.write_text(text.replace(*change))
    with pytest.raises(InputError, match=named):
        read_rollout(file)
