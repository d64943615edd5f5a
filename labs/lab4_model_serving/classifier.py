"""The model that the lab serves: hashed words, two layers, one label for a text.

Hashing needs no vocabulary file, so a worker cannot load a vocabulary of another version than the
weights: the classic skew between training and serving has nowhere to live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from labs.lab4_model_serving.export import export_onnx

if TYPE_CHECKING:
    import torch

FEATURES = 4096
INPUT, OUTPUT = "features", "logits"


def hash_texts(texts: Sequence[str]) -> NDArray[np.float32]:
    """Hashed word counts of texts, each row of length 1; float32 [n, FEATURES].

    The one function that training and the serving worker share.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    hasher = HashingVectorizer(n_features=FEATURES, alternate_sign=False, dtype=np.float32)
    features: NDArray[np.float32] = hasher.transform(texts).toarray()
    return features


def train(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    classes: int,
    hidden: int = 256,
    epochs: int = 3,
    batch: int = 256,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> torch.nn.Module:
    """Fit ``Linear(FEATURES, hidden) - ReLU - Linear(hidden, classes)`` with AdamW.

    Parameters
    ----------
    features : float array [n, FEATURES]
    labels : int array [n]
        In [0, classes).
    progress
        Wraps the range of steps, for a progress bar.

    Returns
    -------
    torch.nn.Module
        On the CPU, in evaluation mode; maps [b, FEATURES] to logits [b, classes].
    """
    import torch

    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, hidden),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(hidden, classes),
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    x, y = torch.from_numpy(features), torch.tensor(labels)
    steps = -(-len(x) // batch)
    order = torch.empty(0, dtype=torch.int64)
    for step in progress(range(epochs * steps)):
        if step % steps == 0:
            order = torch.randperm(len(x))
        chosen = order[step % steps * batch :][:batch]
        loss = torch.nn.functional.cross_entropy(
            model(x[chosen].to(device)), y[chosen].to(device), label_smoothing=0.05
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.cpu().eval()


def export(model: torch.nn.Module, path: Path) -> Path:
    """Write the trained model as ONNX with a dynamic batch axis."""
    import torch

    example = {INPUT: torch.zeros(2, FEATURES)}
    return export_onnx(model, example, path, output_names=[OUTPUT], dynamic={INPUT: {0: "batch"}})
