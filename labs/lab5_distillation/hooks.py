"""Forward hooks by module path: what goes on inside a model, without a line of it changed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from common.errors import InputError
from common.exercises import exercise

Calls = dict[str, list[Tensor]]
"""Path to the tensors that its module gave, one for each call, in order."""


def modules_at(model: nn.Module, paths: Sequence[str]) -> dict[str, nn.Module]:
    """The modules at the given paths, such as ``encoder.encoder.layer.3.attention.self.query``.

    Raises
    ------
    InputError
        No path, one twice, or one at which the model has no module; paths near it are named.
    """
    if isinstance(paths, str) or not paths:
        raise InputError(f"paths = {paths!r} must be a sequence of module paths, one at least")
    if len(set(paths)) < len(paths):
        raise InputError(f"paths names {max(paths, key=list(paths).count)!r} more than once")
    known = dict(model.named_modules(remove_duplicate=False))
    for path in paths:
        if path not in known:
            near = difflib.get_close_matches(path, known, n=3, cutoff=0.5)
            raise InputError(
                f"{type(model).__name__} has no module at {path!r}; near it: "
                f"{', '.join(near) or 'none, see model.named_modules()'}"
            )
    return {path: known[path] for path in paths}


def first_tensor(value: Any) -> Tensor:
    """The tensor that a module gave: itself, or the first of a tuple, a list or a mapping.

    Raises
    ------
    InputError
        There is none.
    """
    values = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(values, list | tuple) and values:
        values = values[0]
    if not isinstance(values, Tensor):
        raise InputError(f"a tapped module gave {type(value).__name__}, which holds no tensor")
    return values


@exercise(
    "5.10",
    points=10,
    title="Record modules by their path",
    hint="A forward hook is called with (module, arguments, output); what it returns, unless None, "
    "replaces the output. register_forward_hook gives a handle with remove(). When does each "
    "closure look up the path, and what happens to the handles when the forward raises?",
)
@contextmanager
def recording(model: nn.Module, paths: Sequence[str]) -> Iterator[Calls]:
    """Record what the modules at ``paths`` give while the ``with`` block runs.

    The model computes what it would have computed, and is left without a hook however the block
    ends. What is recorded is what the next module gets, graph included, so that a loss on it
    reaches the parameters below; under ``torch.no_grad()`` there is no graph to keep.

    Parameters
    ----------
    paths
        See `modules_at`; ``""`` is the model itself.

    Yields
    ------
    Calls
        Path to the list of tensors given (`first_tensor`), one for each call, empty at first.

    Examples
    --------
    >>> with recording(model, ["encoder.encoder.layer.0"]) as calls:
    ...     logits = model(ids, mask)
    >>> (states,) = calls["encoder.encoder.layer.0"]
    """
    modules = modules_at(model, paths)
    calls: Calls = {path: [] for path in modules}

    def hook_for(path: str) -> Any:
        def note(module: nn.Module, arguments: Any, output: Any) -> None:
            calls[path].append(first_tensor(output))

        return note

    handles = [module.register_forward_hook(hook_for(path)) for path, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recording_inputs(model: nn.Module, paths: Sequence[str]) -> Iterator[Calls]:
    """`recording` of what the modules are given: their first argument, by place or by name."""
    modules = modules_at(model, paths)
    calls: Calls = {path: [] for path in modules}

    def hook_for(path: str) -> Any:
        def note(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls[path].append(first_tensor(arguments or named))

        return note

    handles = [
        module.register_forward_pre_hook(hook_for(path), with_kwargs=True)
        for path, module in modules.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


class Taps:
    """Tensors of chosen modules of one forward, by path.

    >>> with Taps(student, paths) as taps:
    ...     logits = read(student, batch)
    >>> taps["encoder.encoder.layer.0"]  # [B, L, width]

    Between ``with`` and its end the model carries hooks, before and after it none: what is saved,
    copied or exported holds no trace. The tensors stay readable until the next ``with`` or as long
    as the object lives, so keep it as local as the loss: a tap that outlives its batch holds that
    batch's whole graph.

    A module that is called more than once in a forward (layers with shared weights, as in ALBERT)
    has no *one* output: ``taps[path]`` refuses, ``taps.calls[path]`` has all of them in order.

    Parameters
    ----------
    model, paths
        See `modules_at`; they are checked here, before anything is computed.
    inputs
        Record what the modules are given in place of what they give.

    Raises
    ------
    InputError
        As `modules_at`; entered again before it was left.

    Notes
    -----
    Tensors come as the module gave them: bfloat16 under autocast, with a graph where one is made.
    ``torch.inference_mode`` makes tensors that no later graph may use; run a teacher under
    ``torch.no_grad()``. A module that works in place (``ReLU(inplace=True)``) after a tapped one
    changes what was recorded. ``torch.compile`` does not look again for hooks that came after it
    compiled: a compiled model is tapped without an error and records nothing, which ``taps[path]``
    then refuses.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str], *, inputs: bool = False) -> None:
        modules_at(model, paths)
        self.model, self.paths, self.inputs = model, tuple(paths), inputs
        self.calls: Calls = {}
        self._open: AbstractContextManager[Calls] | None = None

    def __enter__(self) -> Taps:
        if self._open is not None:
            raise InputError("these taps are open already; make others for a forward inside it")
        record = recording_inputs if self.inputs else recording
        opened = record(self.model, self.paths)
        self.calls = opened.__enter__()
        self._open = opened
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            opened.__exit__(kind, error, trace)

    def __getitem__(self, path: str) -> Tensor:
        """The one tensor of ``path``.

        Raises
        ------
        InputError
            The path is not tapped, or its module was not called exactly once.
        """
        if path not in self.paths:
            raise InputError(f"{path!r} is not tapped; these are: {', '.join(self.paths)}")
        found = self.calls.get(path, [])
        if len(found) != 1:
            raise InputError(
                f"{path!r} was called {len(found)} times; "
                + (f"taps.calls[{path!r}] has each" if found else "run the model in the with block")
            )
        return found[0]

    def clear(self) -> None:
        """Forget what was recorded, between two forwards in one ``with``."""
        for found in self.calls.values():
            found.clear()
