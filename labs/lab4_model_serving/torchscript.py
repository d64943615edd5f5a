"""TorchScript: trace, script, freeze, and what each of them silently loses.

TorchScript is deprecated (torch 2.13 says so at each call) and maintained no more; ``torch.export``
took its place. It is here because models in this form are still being served, and because its
mistakes are those of every capture by example.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError, RunError

if TYPE_CHECKING:
    import torch


def trace(model: torch.nn.Module, example: Sequence[torch.Tensor]) -> torch.jit.ScriptModule:
    """Record the operators that ``model`` runs on one example.

    What Python decided on the way (a branch, a number of rounds, a size used as a number) is
    recorded as it was for the example. ``TracerWarning`` names some of these places, not all.

    Returns
    -------
    torch.jit.ScriptModule
        In evaluation mode; the model is left as it was.
    """
    import torch

    with _evaluated(model), _without_deprecations(), torch.no_grad():
        traced = torch.jit.trace(model, tuple(example), check_trace=False)
    return _module(traced)


def script(model: torch.nn.Module) -> torch.jit.ScriptModule:
    """Compile the model's Python source, with its branches and loops.

    Raises
    ------
    RunError
        The source is outside the subset that compiles; the message says where.
    """
    import torch

    with _evaluated(model), _without_deprecations():
        try:
            return _module(torch.jit.script(model))
        except (RuntimeError, torch.jit.frontend.FrontendError) as error:
            raise RunError(f"{type(model).__name__} cannot be scripted: {error}") from error


def freeze(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Turn weights into constants of the graph and inline everything into ``forward``.

    Afterwards there are no parameters to load or to move, no ``train()``, and no other method.
    """
    import torch

    with _without_deprecations():
        return _module(torch.jit.freeze(module.eval()))


def save(module: torch.jit.ScriptModule, path: Path) -> Path:
    """Write code and weights as one file, whole or not at all."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with _without_deprecations():
            torch.jit.save(module, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load(path: Path) -> torch.jit.ScriptModule:
    """Read a module back, onto the CPU. The class of the model is not needed, and not restored.

    Raises
    ------
    InputError
        The file is missing.
    """
    import torch

    if not path.is_file():
        raise InputError(f"no TorchScript at {path}; write one first (save)")
    with _without_deprecations():
        return _module(torch.jit.load(path, map_location="cpu"))


def _module(made: Any) -> torch.jit.ScriptModule:
    found: torch.jit.ScriptModule = made
    return found


@contextmanager
def _evaluated(model: torch.nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _without_deprecations() -> Iterator[None]:
    # The module's docstring and the lesson say it once, torch at each call.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


@dataclass(frozen=True)
class Loss:
    """What one road does with one habit of Python code; ``outcome`` is read off a run.

    ``"kept"``: other inputs get the right answer. ``"wrong answer"``: they get another, silently.
    ``"refused"``: an error, at capture or at the call.
    """

    habit: str
    road: str
    outcome: str
    detail: str = ""


def losses() -> list[Loss]:
    """Capture small models on one input, ask for another, and compare with Python.

    The habits: a branch on values, a loop over the length, a size used as a number, and a library
    call that is not torch. The roads: trace, script, ``torch.export``.
    """
    import torch

    roads: dict[str, Callable[[torch.nn.Module, torch.Tensor], Callable[..., torch.Tensor]]] = {
        "trace": lambda model, x: trace(model, [x]),
        "script": lambda model, x: script(model),
        "torch.export": _exported,
    }
    first = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]])
    other = -torch.ones(2, 5)
    found = []
    for habit, model in _habits().items():
        right = model(other)
        for road, capture in roads.items():
            try:
                # A refusal is a finding here: torch need not print the graph that it refused.
                with warnings.catch_warnings(), redirect_stderr(StringIO()):
                    warnings.simplefilter("ignore", torch.jit.TracerWarning)
                    answer = capture(model, first)(other)
            except Exception as error:  # any: the roads share no base class
                words = " ".join(str(error).split())[:120]
                found.append(Loss(habit, road, "refused", f"{type(error).__name__}: {words}"))
                continue
            same = answer.shape == right.shape and torch.allclose(answer, right)
            detail = (
                "" if same else f"{answer.flatten()[0]:.4g} instead of {right.flatten()[0]:.4g}"
            )
            found.append(Loss(habit, road, "kept" if same else "wrong answer", detail))
    return found


def _exported(model: torch.nn.Module, x: torch.Tensor) -> Callable[..., torch.Tensor]:
    import torch

    tokens = torch.export.Dim("tokens")
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({1: tokens},))
    return program.module()


def _habits() -> dict[str, torch.nn.Module]:
    import numpy as np
    import torch
    from torch import Tensor, nn

    class BranchOnValues(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if bool(x.sum() > 0):
                return x.sum(dim=1)
            return -x.sum(dim=1)

    class LoopOverLength(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros_like(x[:, 0])
            for i in range(x.shape[1]):
                total = total * 0.5 + x[:, i]
            return total

    class SizeAsANumber(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(dim=1) / float(x.shape[1])

    class OutsideTorch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(dim=1) * float(np.log(len(x[0])))

    return {
        "branch on values": BranchOnValues().eval(),
        "loop over the length": LoopOverLength().eval(),
        "size as a number": SizeAsANumber().eval(),
        "call outside torch": OutsideTorch().eval(),
    }
