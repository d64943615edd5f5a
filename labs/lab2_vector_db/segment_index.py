"""The index of a segment: trained on its vectors, or added to quantizers trained before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from common.errors import RunError
from labs.lab2_vector_db.drift import Drift, Profile, compare, measure
from labs.lab2_vector_db.index_building import new_index, sample_rows, training_size
from labs.lab2_vector_db.index_types import IVF, PQ, Recipe
from labs.lab2_vector_db.manifest import Options, Schema
from labs.lab2_vector_db.persistence import write_synced
from labs.lab2_vector_db.segments import INDEX, TRAINED, Build, Built, Segment

Vectors = NDArray[np.float32]
POINTS_PER_CENTROID = 39  # the least that faiss trains on without a warning
SLICE_ROWS = 65_536


class Stopped(RunError):
    """The collection was closed while it was at work; everything is as it was."""

    def __init__(self) -> None:
        super().__init__("the collection was closed meanwhile; open it and do it again")


def least_rows(recipe: Recipe) -> int:
    """Vectors that training needs: 39 a centroid, of the lists or of a codebook."""
    centroids = 0
    if isinstance(recipe.structure, IVF):
        centroids = recipe.structure.n_lists
    if isinstance(recipe.code, PQ):
        centroids = max(centroids, 2**recipe.code.bits)
    return POINTS_PER_CENTROID * centroids


def profile_of(segment: Segment) -> Profile | None:
    """The profile that the segment's quantizers had in training."""
    kept = segment.entry.profile
    return Profile(kept["error"], kept["imbalance"], int(kept["rows"])) if kept else None


def trained_index(segment: Segment) -> faiss.Index:
    """The segment's index without its rows, a copy of the caller's own."""
    return faiss.read_index(str(segment.folder / TRAINED))


def drift_of(donor: Segment, vectors: Vectors) -> Drift | None:
    """New vectors against those that the donor's quantizers were trained on; None: no drift."""
    training = profile_of(donor)
    if training is None or len(vectors) < 2:
        return None
    new = measure(trained_index(donor), vectors)
    return None if new is None else compare(training, new)


def train(vectors: Vectors, recipe: Recipe, *, seed: int) -> tuple[faiss.Index, Profile | None]:
    """A trained, empty index, and the profile of the vectors it was trained on."""
    index = new_index(vectors.shape[1], recipe, seed=seed)
    sample = sample_rows(vectors, training_size(recipe, len(vectors)), seed=seed)
    index.train(sample)
    return index, measure(index, sample) if len(sample) > 1 else None


def index_builder(
    schema: Schema,
    options: Options,
    donor: Segment | None,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Build:
    """How to make the index of a new segment: given its folder and vectors, writes both files.

    Parameters
    ----------
    donor
        A segment whose quantizers are reused; None trains new ones, where the rows suffice.
    stop
        Asked between slices; True gives up.
    """
    recipe = schema.index_recipe

    def build(folder: Path, vectors: Vectors) -> Built | None:
        if recipe is None or len(vectors) < max(1, options.index_rows):
            return None
        if donor is not None:
            index, profile = trained_index(donor), profile_of(donor)
        elif len(vectors) >= least_rows(recipe):
            index, profile = train(vectors, recipe, seed=options.seed)
        else:
            return None
        write_synced(index, folder / TRAINED)
        for start in range(0, len(vectors), SLICE_ROWS):
            if stop():
                raise Stopped
            index.add(vectors[start : start + SLICE_ROWS])
        write_synced(index, folder / INDEX)
        return Built(donor is None, None if profile is None else asdict(profile))

    return build
