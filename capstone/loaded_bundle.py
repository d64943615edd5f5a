"""A bundle in memory, ready to answer requests; what does not fit together is refused here.

Encoder, index, tables and vectors come from one checkpoint and one catalogue. Shapes that differ
would fail at the first request; an index of another checkpoint would not fail at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from capstone import bundle as bundles
from capstone import calibration, gates
from capstone.bundle import Bundle
from capstone.calibration import Platt
from capstone.catalogue import Catalogue
from capstone.reranking import RerankConfig
from capstone.sources import Candidates, Mask, SourceTables, gather
from capstone.user_state import History
from common.errors import InputError, RunError
from labs.lab2_vector_db.persistence import load_index
from labs.lab2_vector_db.search import search
from labs.lab4_model_serving.export import session

Ints = NDArray[np.int64]
REMEMBERED = 10_000
"""Users whose candidates are kept: those that were asked for last."""


class Mismatch(InputError):
    """A bundle whose parts do not fit together; ``part`` says which, for a counter."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


@dataclass
class LoadedBundle:
    """What a bundle's files are in memory. Make it with :func:`load`.

    Attributes
    ----------
    vectors : float32 [n_items + 1, D]
        Item embeddings, for diversity.
    visible : bool [n_items + 1]
    described : what a client is told of each item, by its id
    """

    bundle: Bundle
    encoder: ort.InferenceSession
    index: faiss.Index
    catalogue: Catalogue
    tables: SourceTables
    vectors: NDArray[np.float32]
    calibration: Mapping[str, Platt]
    rerank: RerankConfig
    visible: NDArray[np.bool_]
    described: list[dict[str, Any]]
    remembered: OrderedDict[int, tuple[History, Candidates]] = field(default_factory=OrderedDict)
    """User to a history and what the sources gave for it."""

    @property
    def version(self) -> str:
        return self.bundle.version

    def candidates(self, user: int, history: History, seen: Mask) -> Candidates:
        """What all sources give for a history, found once while it does not change.

        Query and neighbours come from what was wanted: a hidden item is seen, and pulls nothing in.

        Parameters
        ----------
        seen : bool [n_items + 1]
            The items of the history.
        """
        known = self.remembered.get(user)
        if known is not None and known[0].equals(history):
            self.remembered.move_to_end(user)
            return known[1]
        limit, nearest = self.bundle.candidates, np.zeros(0, dtype=np.int64)
        if len(history.wanted):
            # As many more as can be taken away.
            nearest = self.nearest(self.query(history), limit + len(history.items))
        found = gather(
            nearest, history.wanted, self.tables,
            limit=limit, quotas=self.tables.quotas, seen=seen, visible=self.visible,
        )  # fmt: skip
        self.remembered[user] = history, found
        if len(self.remembered) > REMEMBERED:
            self.remembered.popitem(last=False)
        return found

    def query(self, history: History) -> NDArray[np.float32]:
        """The encoder's vector [1, D] of what a user wanted."""
        padded = np.zeros((1, self.bundle.max_length), dtype=np.int64)
        newest = history.wanted[-self.bundle.max_length :]
        # A bundle does not know the items that came into the catalogue after it.
        newest = newest[newest <= self.catalogue.n_items]
        padded[0, padded.shape[1] - len(newest) :] = newest
        (found,) = self.encoder.run(["query"], {"history": padded})
        vector: NDArray[np.float32] = found
        return vector

    def nearest(self, query: NDArray[np.float32], count: int) -> Ints:
        """Items nearest to a query, best first: at most ``count``."""
        _, ids = search(self.index, query, min(self.index.ntotal, count))
        return ids[0]


def require_gates(bundle: Bundle) -> None:
    """Refuse a bundle that no gate has judged, that failed one, or that is not what was judged.

    A verdict says what it is about, so that of one bundle does not open the door to another: the
    models' gates which models, the fairness gate, which judges whole feeds, all that serves them.
    It keeps out what was forgotten or mixed up, not somebody who may write both.

    Raises
    ------
    Mismatch
        Part ``gates``: no verdict, one that is damaged, edited or of other gates or other files, a
        gate that failed, or a fairness gate that blocks.
    """
    who = f"bundle {bundle.version}"
    for path in (bundle.quality, bundle.fairness):
        if not path.exists():
            raise Mismatch("gates", f"{who} was never judged: it has no {path.name}")
    try:
        verdict = gates.read_verdict(bundle.quality)
        fairness = gates.read_promotion(bundle.fairness)
    except InputError as error:
        raise Mismatch("gates", f"{who}: {error}") from error
    parts = {name: bundle.folder / file for name, file in bundles.PARTS.items()}
    models = bundles.judged_parts(parts, bundle.weights)
    everything = bundles.served_parts(parts, bundle.facts)
    for path, judged, found in (
        (bundle.quality, verdict.judged, models), (bundle.fairness, fairness.judged, everything)
    ):  # fmt: skip
        other = sorted(name for name, digest in found.items() if judged.get(name) != digest)
        if other:
            raise Mismatch(
                "gates", f"{who}: {path.name} is of another {', '.join(other)}; what was changed "
                "after it was judged must be judged again",
            )  # fmt: skip
    if verdict.failed:
        raise Mismatch("gates", f"{who} failed its gates: {', '.join(verdict.failed)}")
    if not fairness.promote:
        raise Mismatch("gates", f"{who} is blocked by the fairness gate")


def load(folder: Path) -> LoadedBundle:
    """Read a bundle and check that it is whole and of one piece.

    Raises
    ------
    Mismatch
        A file is not the one that was bundled (``files``), the index is damaged or of another
        checkpoint (``index``), or a part has another catalogue or width than the others.
    """
    try:
        bundle = bundles.load(folder)
    except (InputError, OSError) as error:
        raise Mismatch("files", str(error)) from error
    try:
        index, _ = load_index(bundle.index, expected_version=bundle.checkpoint)
    except (InputError, RunError) as error:
        raise Mismatch("index", f"bundle {bundle.version}: {error}") from error
    try:
        encoder = session(bundle.encoder, threads=1)
        catalogue = Catalogue.load(bundle.catalogue)
        tables = SourceTables.load(bundle.sources)
        vectors = np.load(bundle.vectors, allow_pickle=False).astype(np.float32)
        maps = calibration.load(bundle.calibration)
        rerank = RerankConfig.from_json(bundle.rerank)
    except (InputError, OSError, ValueError, KeyError) as error:
        raise Mismatch("parts", f"bundle {bundle.version}: {error}") from error
    (query,) = encoder.run(["query"], {"history": np.ones((1, bundle.max_length), np.int64)})
    n_items = catalogue.n_items
    for part, found, expected in (
        ("index", index.d, query.shape[1]),
        ("index", index.ntotal, n_items),
        ("sources", tables.n_items, n_items),
        ("vectors", len(vectors), n_items + 1),
        ("calibration", sorted(maps), sorted(bundle.heads)),
    ):
        if found != expected:
            raise Mismatch(
                part, f"bundle {bundle.version}: {part} has {found}, the others {expected}; "
                "run --stages bundle again",
            )  # fmt: skip
    described = [
        {
            "item_id": item,
            "title": catalogue.titles[item],
            "genres": list(catalogue.genres[item]),
            "creator": catalogue.creator_name(item),
        }
        for item in range(n_items + 1)
    ]
    visible = catalogue.visible.copy()
    visible[0] = False
    return LoadedBundle(
        bundle, encoder, index, catalogue, tables, vectors, maps, rerank, visible, described
    )
