"""A trap's output: both numbers, the reason, and a clear word on an unknown name."""

from __future__ import annotations

import sys

import pytest

from common.traps import Trap, show

RAN: list[str] = []


def mean_of_ratios() -> Trap:
    RAN.append("mean_of_ratios")
    return Trap(
        "Mean of x[i] :bug:", ("mean of list[int]", 0.123456789), ("sum", 3), "Units [a] differ."
    )


def other() -> Trap:
    RAN.append("other")
    return Trap("Other", ("a", "text"), ("b", None), "Because.")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> tuple[str, str]:
        RAN.clear()
        monkeypatch.setattr(sys, "argv", ["traps", *arguments])
        show((mean_of_ratios, other))
        return capsys.readouterr()

    return run


def test_both_numbers_and_the_reason_are_shown_as_they_are_written(shown) -> None:
    """Square brackets and colons are text here, not markup of the terminal library."""
    out, err = shown()
    assert RAN == ["mean_of_ratios", "other"]
    assert err == ""
    for part in (
        "Mean of x[i] :bug:", "(mean_of_ratios, 0.0 s)", "wrong  mean of list[int]  0.123457",
        "right  sum                3", "Units [a] differ.", "wrong  a  text",
    ):  # fmt: skip
        assert part in out, f"{part!r} is not in {out!r}"


def test_names_select_and_order_the_traps(shown) -> None:
    shown("other")
    assert RAN == ["other"]
    shown("other", "mean_of_ratios")
    assert RAN == ["other", "mean_of_ratios"]


@pytest.mark.parametrize("arguments", [["nothing"], ["other", "nothing"], ["--help"]])
def test_an_unknown_trap_exits_2_and_names_those_there_are(
    shown, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        shown(*arguments)
    assert leaving.value.code == 2
    out, err = capsys.readouterr()
    assert (out, RAN) == ("", [])
    assert err == (
        f"error: no trap is called '{arguments[-1]}'; the traps here: mean_of_ratios, other\n"
    )
