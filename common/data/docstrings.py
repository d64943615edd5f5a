"""The dataset ``docstrings``: technical English that every Python machine has.

The docstrings of the standard library and of every installed package, read with `ast` and never
imported. The label is the library, so its name and every identifier in the text are masked:
otherwise one word gives the answer away.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import json
import os
import platform
import re
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.fetch import (
    DataError,
    cache_folder,
    locked,
    notice,
    publish,
    read_note,
    sha256_of,
)
from common.errors import require
from common.process import supervised

if TYPE_CHECKING:
    import pandas as pd

    from common.data.dataset import Dataset

ROOT = Path(__file__).resolve().parents[2]
VERSION = 1  # of the extraction and the masking: raise it when the texts change
MIN_CHARACTERS = 40
OWN_DISTRIBUTION = "production-ml-labs"
LABEL_BY_SUBMODULE = ("scipy", "sklearn")
STDLIB = "stdlib"
MASK = "_"
MAX_FILE_BYTES = 4_000_000

DOCTEST = re.compile(r"^[ \t]*(>>>|\.\.\. |In \[\d+\]).*$", re.MULTILINE)
CODE = re.compile(r"``[^`\n]+``|`[^`\n]+`|:[a-z:]+:`[^`]*`|https?://\S+")
IDENTIFIER = re.compile(
    r"\b[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+"  # dotted.names
    r"|\b\w*_\w*\b"  # snake_case and __dunder__
    r"|\b[A-Z]?[a-z0-9]+(?:[A-Z][a-z0-9]*)+\b"  # CamelCase and mixedCase
    r"|\b[A-Z]{2,}[a-z]\w*\b"  # KMeans, SVMClassifier
)
WORD = re.compile(r"\b[A-Za-z]\w+\b")
SPACES = re.compile(r"[ \t]*(?:_[ \t,()\[\].:*=-]*){2,}")
"""A run of masks, and what stood between them, becomes one mask."""


@dataclass(frozen=True)
class Source:
    """One Python file of a library; ``module`` is its dotted name."""

    path: str
    library: str
    module: str


@dataclass(frozen=True)
class Row:
    """One docstring."""

    text: str
    label: str
    library: str
    module: str


def build() -> tuple[Path, int, str]:
    """The dataset of this environment, from the cache or made now (about a minute).

    Returns
    -------
    (path, rows, sha256)
        ``path`` is a file of JSON lines with the fields of `Row`, in a fixed order. It is keyed by
        a fingerprint of the Python version and of every installed distribution and its version.
    """
    path, seal = _paths()
    if not _whole(path, seal):
        with locked(path.parent):
            if not _whole(path, seal):
                _make(path, seal)
    content = read_note(seal)
    return path, content["rows"], content["sha256"]


def is_made() -> bool:
    """Whether this environment's dataset is in the cache, whole."""
    return _whole(*_paths())


def read_docstrings(dataset: Dataset) -> pd.DataFrame:
    """text (masked), label (library, or submodule of scipy and sklearn), library, module."""
    import pandas as pd

    (path,) = dataset.files.values()
    with path.open(encoding="utf-8") as stream:
        return pd.DataFrame([json.loads(line) for line in stream])


def topics(table: pd.DataFrame, n: int = 19, min_count: int = 200) -> pd.DataFrame:
    """The rows of the ``n`` most frequent labels, each with at least ``min_count`` rows.

    Parameters
    ----------
    table
        The table "docstrings".
    n
        Number of labels, >= 2. Ties are broken by name.
    min_count
        Rows a label needs.

    Raises
    ------
    InputError
        Fewer than ``n`` labels have ``min_count`` rows in this environment.
    """
    require(n >= 2, "n", n, "must be at least 2")
    counts = table["label"].value_counts()
    enough = sorted(counts[counts >= min_count].items(), key=lambda item: (-item[1], str(item[0])))
    require(
        len(enough) >= n,
        "n",
        n,
        f"is more than the {len(enough)} labels with {min_count} docstrings in this environment",
        "lower n or min_count",
    )
    return table[table["label"].isin([label for label, _ in enough[:n]])].reset_index(drop=True)


def fingerprint() -> str:
    """A short hash of the Python version and of every installed distribution and its version."""
    installed = sorted({f"{dist.name}=={dist.version}" for dist in distributions() if dist.name})
    installed = [line for line in installed if not line.startswith(OWN_DISTRIBUTION)]
    text = "\n".join([str(VERSION), platform.python_version(), *installed])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sources() -> list[Source]:
    """Every Python file of the standard library and of the installed packages, in order."""
    found: dict[str, Source] = {}
    for dist in distributions():
        if dist.name == OWN_DISTRIBUTION:
            continue
        for file in dist.files or ():
            if file.suffix == ".py" and ".." not in file.parts and "bin" not in file.parts[:1]:
                place = str(dist.locate_file(file))
                found[place] = Source(place, file.parts[0].removesuffix(".py"), _dotted(file.parts))
    root = Path(sysconfig.get_path("stdlib"))
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if parts[0] not in {"site-packages", "dist-packages", "test", "idlelib"}:
            found.setdefault(str(path), Source(str(path), STDLIB, _dotted(parts)))
    return sorted(found.values(), key=lambda source: (source.library, source.module, source.path))


def docstrings_of(source: Source) -> list[Row]:
    """The masked docstrings of one file, in the order of the file."""
    path = Path(source.path)
    if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
        return []
    code = path.read_bytes()
    if b'"""' not in code and b"'''" not in code:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return []  # templates, files for another Python version
    parts = source.module.split(".")
    names = {source.library, *parts} - {"__init__", ""}
    label = source.library
    if source.library in LABEL_BY_SUBMODULE and len(parts) > 1:
        label = f"{source.library}.{parts[1]}"
    rows = []
    for node, own in _documented(tree):
        text = mask(ast.get_docstring(node) or "", names | own)
        if len(text) >= MIN_CHARACTERS:
            rows.append(Row(text, label, source.library, source.module))
    return rows


def mask(text: str, names: set[str]) -> str:
    """Hide identifiers, code and ``names`` from a docstring.

    Parameters
    ----------
    text
        A docstring as `ast.get_docstring` gives it.
    names
        Words to hide wherever they stand, in any case: the library, its modules, the function.

    Returns
    -------
    str
        The text, with ``_`` for what was hidden; doctest lines are dropped.
    """
    text = CODE.sub(MASK, DOCTEST.sub("", text))
    text = IDENTIFIER.sub(MASK, text)
    hidden = {name.strip("_").lower() for name in names}
    text = WORD.sub(lambda word: MASK if word[0].lower() in hidden else word[0], text)
    text = SPACES.sub(f" {MASK} ", text)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _documented(
    tree: ast.Module,
) -> Iterator[tuple[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, set[str]]]:
    """Modules, classes and functions, in the order of the file, with their own names."""
    yield tree, set()
    left: list[ast.AST] = list(reversed(tree.body))
    while left:
        node = left.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, {node.name}
        # Only statements hold statements: expressions, most of the tree, are not entered.
        for block in ("finalbody", "orelse", "handlers", "cases", "body"):
            if isinstance(inner := getattr(node, block, None), list):
                left.extend(reversed(inner))


def _dotted(parts: tuple[str, ...]) -> str:
    names = [*parts[:-1], parts[-1].removesuffix(".py")]
    return ".".join(names[:-1] if names[-1] == "__init__" and len(names) > 1 else names)


def _paths() -> tuple[Path, Path]:
    path = cache_folder() / "docstrings" / f"docstrings-{fingerprint()}.jsonl"
    return path, path.with_suffix(".json")


def _whole(path: Path, seal: Path) -> bool:
    sealed = read_note(seal).get("sha256")
    return sealed is not None and path.is_file() and sha256_of(path) == sealed


def _make(path: Path, seal: Path) -> None:
    """Make the dataset in a process of its own, so that nothing outlives an interrupted run."""
    notice("reading the docstrings of the installed packages (about a minute, once)")
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as temporary:
        part, log = Path(temporary) / path.name, Path(temporary) / "log"
        command = [sys.executable, "-m", "common.data.docstrings", str(part)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with supervised(command, log=log, env=env, name="docstrings") as child:
            status = child.wait()
        if status != 0:
            raise DataError(f"reading the docstrings failed (status {status}):\n{child.tail()}")
        with part.open(encoding="utf-8") as stream:
            rows = sum(1 for _ in stream)
        part_seal = Path(temporary) / seal.name
        part_seal.write_text(json.dumps({"rows": rows, "sha256": sha256_of(part)}))
        publish(part, path)
        publish(part_seal, seal)


def _write(path: Path) -> None:
    """Write the unique docstrings of this environment as JSON lines."""
    workers = min(2, len(os.sched_getaffinity(0)))
    seen: set[str] = set()
    # A syntax tree is many objects without a cycle: the collector finds nothing, in a quarter of
    # the time.
    pool = ProcessPoolExecutor(workers, initializer=gc.disable)
    with path.open("w", encoding="utf-8") as stream, pool:
        for rows in pool.map(docstrings_of, sources(), chunksize=64):
            for row in rows:
                if row.text not in seen:
                    seen.add(row.text)
                    stream.write(json.dumps(asdict(row), ensure_ascii=True) + "\n")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
