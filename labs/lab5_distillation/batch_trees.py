"""Batches of any shape: tensors in tuples, dicts and dataclasses, however nested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from common.errors import InputError


@dataclass(frozen=True)
class Weighted:
    """A batch and how many examples (or tokens) its mean loss stands for.

    A loader yields these where the number of rows is not the weight: a shard of a batch, or a loss
    that is a mean over tokens.
    """

    batch: Any
    weight: float


def tensors(batch: Any) -> Iterator[Tensor]:
    """Every tensor of a batch, in the order of its parts."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, dict):
        for value in batch.values():
            yield from tensors(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from tensors(value)
    elif is_dataclass(batch):
        for field in fields(batch):
            yield from tensors(getattr(batch, field.name))


def change(batch: Any, to: Callable[[Tensor], Tensor]) -> Any:
    """The same batch with every tensor changed; what is no tensor stays as it is."""
    if isinstance(batch, Tensor):
        return to(batch)
    if isinstance(batch, dict):
        return {key: change(value, to) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(change(value, to) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(change(value, to) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        given = {field.name: getattr(batch, field.name) for field in fields(batch) if field.init}
        return replace(batch, **{name: change(value, to) for name, value in given.items()})
    return batch


def examples(batch: Any) -> int:
    """Number of rows of the first tensor that has rows.

    Raises
    ------
    InputError
        A batch without such a tensor.
    """
    for tensor in tensors(batch):
        if tensor.ndim:
            return len(tensor)
    raise InputError(
        f"a batch of type {type(batch).__name__} holds no tensor with rows to count; let the "
        "loader yield Weighted(batch, weight)"
    )


def weighted(batch: Any) -> Weighted:
    """A batch with its weight: what the loader said, or its number of examples."""
    return batch if isinstance(batch, Weighted) else Weighted(batch, float(examples(batch)))


def rows(batch: Any, chosen: slice) -> Any:
    """The chosen rows of every tensor of a batch that has as many rows as the first."""
    count = examples(batch)

    def take(tensor: Tensor) -> Tensor:
        return tensor[chosen] if tensor.ndim and len(tensor) == count else tensor

    return change(batch, take)


def plain(batch: Any) -> Any:
    """A copy on the CPU out of dicts, lists and tensors, which ``weights_only=True`` reads."""
    if isinstance(batch, Tensor):
        return batch.detach().cpu().clone()
    if isinstance(batch, dict):
        return {key: plain(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_asdict"):
        return plain(batch._asdict())
    if isinstance(batch, list | tuple):
        return [plain(value) for value in batch]
    if is_dataclass(batch):
        return {field.name: plain(getattr(batch, field.name)) for field in fields(batch)}
    if hasattr(batch, "dtype") and hasattr(batch, "tolist"):
        return batch.tolist()
    return batch if isinstance(batch, int | float | str | bool | None) else repr(batch)
