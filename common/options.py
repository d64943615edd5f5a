"""The options every lab has, and their command line: scale, device, ranks, output, seed."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from common.errors import InputError, require

ConfigT = TypeVar("ConfigT")
SCALE_NAMES = ("smoke", "standard", "full")


@dataclass(frozen=True)
class RunOptions:
    """Where, how large and on whose code to run."""

    scale: Literal["smoke", "standard", "full"] = "standard"
    """smoke: CI, under a minute. standard: a learner's machine. full: the deliverable's size."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU when there is one."""
    procs: Literal["auto"] | int = "auto"
    """Ranks that train: auto is one a GPU, or 2 on CPU."""
    out: Path = Path("runs")
    """Folder that receives <package>/<UTC time>-<scale>/."""
    seed: int = 0
    """Seed of everything random (0 to 2**31 - 1)."""
    mine: bool = False
    """Run your own solutions in work/ in place of ours."""
    strict: bool = False
    """Exit with status 1 when a deliverable is measured and missed."""
    track: Literal["none", "mlflow", "wandb"] = "none"
    """Also report configuration and metrics to an experiment tracker."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "--seed", self.seed, "must be from 0 to 2147483647")
        if isinstance(self.procs, int):
            require(self.procs >= 1, "--procs", self.procs, "must be at least 1", "or auto")
        blocked = next((p for p in (self.out, *self.out.parents) if p.exists()), None)
        require(
            blocked is None or blocked.is_dir(),
            "--out",
            str(self.out),
            f"is below {blocked}, which is a file",
            "name a folder",
        )


def parse(
    program: str,
    description: str,
    scales: Mapping[str, ConfigT],
    argv: Sequence[str] | None = None,
) -> tuple[RunOptions, ConfigT]:
    """Parse the shared options and every field of the lab's own configuration.

    The defaults of the configuration are those of the chosen scale.

    Raises
    ------
    InputError
        When a value is outside its limits.
    SystemExit
        With status 2 for an unknown option or choice, 0 after ``--help``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    scale = _scale_of(arguments)
    config = scales[scale]
    both = dataclasses.make_dataclass(
        "Arguments",
        [
            ("options", Annotated[RunOptions, tyro.conf.arg(name="")]),
            ("config", Annotated[type(config), tyro.conf.arg(name="")]),
        ],
        frozen=True,
    )
    parsed: Any = tyro.cli(
        both,
        prog=program,
        description=description,
        args=arguments,
        default=both(RunOptions(scale=scale), config),  # type: ignore[arg-type]
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return parsed.options, parsed.config


def _scale_of(arguments: Sequence[str]) -> str:
    scale = "standard"
    for at, here in enumerate(arguments):
        if here == "--scale" and at + 1 < len(arguments):
            scale = arguments[at + 1]
        elif here.startswith("--scale="):
            scale = here.partition("=")[2]
    if scale not in SCALE_NAMES:
        raise InputError(f"--scale {scale}: no such scale; choose {', '.join(SCALE_NAMES)}")
    return scale
