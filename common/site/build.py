"""Build the site: pages to HTML, the search's index, scripts, and the check of every link."""

from __future__ import annotations

import html
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound

from common.errors import InputError, RunError
from common.exercises import catalog
from common.site import syllabus
from common.site.assets import copy_assets
from common.site.links import broken_links
from common.site.markdown import Reader, code_styles, highlighted
from common.site.navigation import Navigation
from common.site.pages import Addresses, Page, Part, Rendered, relative
from common.site.reference import Package
from common.site.search import search_index

HERE = Path(__file__).parent
MARK = ".production-ml-labs-site"
"""A file in every site that was built here; a folder without it is never replaced."""
LONGEST_FILE = 200_000
MOST_FAULTS = 40
TITLE = "Production ML Labs"


@dataclass(frozen=True)
class Built:
    """What was written."""

    out: Path
    pages: int
    links: int
    assets: str


def build(root: Path, out: Path, folders: Sequence[str] | None = None) -> Built:
    """Write the site of ``root`` to ``out``, whole or not at all.

    Parameters
    ----------
    root
        The repository.
    out
        A new folder, an empty one, or a site of an earlier build, which is replaced.
    folders
        Labs to leave in (``"labs/lab2_vector_db"``, ``"capstone"``); None for all. A link to one
        that is left out is a broken link.

    Raises
    ------
    InputError
        ``out`` is something else, or a source cannot be read.
    RunError
        A link leads nowhere, or no source has the scripts; nothing is changed then.
    """
    _check_target(out)
    chosen = list(folders) if folders is not None else syllabus.labs(root)
    chapters = syllabus.chapters(root, chosen)
    guides = syllabus.guides(root)
    packages = syllabus.reference(root, [*chosen, "common"])
    counts = Counter(entry.lab for entry in catalog.discover(root))
    cards = syllabus.cards(root, chapters, counts)
    with _beside(out) as part:
        assets = copy_assets(part / "assets")
        writer = _Writer(root, part, [guides[0], *chapters, guides[1]], packages)
        writer.write_all()
        writer.write_start(cards)
        writer.write_search()
        for file in (HERE / "static").iterdir():
            shutil.copyfile(file, part / "assets" / file.name)
        (part / "assets" / "code.css").write_text(code_styles(), encoding="utf-8")
        faults = [*writer.addresses.broken, *broken_links(part)]
        if faults:
            listed = "".join(f"\n  - {fault}" for fault in faults[:MOST_FAULTS])
            listed += "\n  ..." * (len(faults) > MOST_FAULTS)
            raise RunError(f"the site has {len(faults)} broken links; nothing was written:{listed}")
        (part / MARK).touch()
    return Built(out, len(writer.rendered) + 1, writer.links, assets)


def _check_target(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"--out {out} is not a folder; give the path of a folder to write")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise InputError(
            f"--out {out} holds something other than a site of this command; "
            "give a new folder, or empty that one"
        )


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when the block ends well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as name:
        part = Path(name) / "site"
        part.mkdir()
        yield part
        if out.exists():
            out.rename(Path(name) / "old")
        part.rename(out)


class _Writer:
    """Renders and writes the pages of one site."""

    def __init__(
        self, root: Path, out: Path, parts: Sequence[Part], packages: Sequence[Package]
    ) -> None:
        self._root, self._out, self._parts, self._packages = root, out, parts, packages
        read = [page for part in parts for page in part.pages]
        pages = {page.source: page.address for page in read if page.source}
        pages |= {p.source: p.address for package in packages for p in package.pages}
        pages |= {package.folder: package.pages[0].address for package in packages}
        pages |= {part.folder: part.pages[0].address for part in parts if part.folder}
        self.addresses = Addresses(root, pages)
        self._reader = Reader(self.addresses, {p.folder: p.modules for p in packages})
        self.rendered: list[tuple[Page, str, Rendered]] = []
        """(page, what it belongs to, rendered), as the search lists them."""
        self.links = 0
        environment = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined
        )
        self._layout = environment.get_template("page.html.j2")
        self._start = environment.get_template("start.html.j2")
        self._navigation = Navigation(parts, packages)

    def write_all(self) -> None:
        """Every page but the start page."""
        for part in self._parts:
            for page in part.pages:
                self._render(page, part.title)
        lessons = list(self.rendered)
        taught: dict[str, list[Page]] = defaultdict(list)
        for page, _, rendered in lessons:
            for address in rendered.modules:
                taught[address].append(page)
        for package in self._packages:
            for page in package.pages:
                self._render(page, package.folder.replace("/", "."))
        for path, address in sorted(self.addresses.wanted.items()):
            self.rendered.append((self._file_page(path, address), "Files", Rendered("")))
        ordered = [page for page, _, _ in lessons]
        for page, part_title, rendered in self.rendered:
            index = ordered.index(page) if page.kind in ("lesson", "guide") else -1
            self._write(
                page,
                part_title,
                rendered,
                taught=taught.get(page.address, []) if page.kind == "reference" else [],
                before=ordered[index - 1] if index > 0 else None,
                after=ordered[index + 1] if 0 <= index < len(ordered) - 1 else None,
            )
        for picture in self.addresses.pictures:
            target = self._out / picture
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._root / picture, target)

    def _render(self, page: Page, part: str) -> None:
        self.rendered.append((page, part, self._reader.render(page)))

    def _file_page(self, path: str, address: str) -> Page:
        """A page that shows a file of the repository, or lists a folder."""
        file = self._root / path
        if file.is_dir():
            names = sorted(child.name for child in file.iterdir() if not child.name.startswith("."))
            body = "".join(f"{name}\n" for name in names if name != "__pycache__")
            return Page(address, path, f"<pre class='code'>{html.escape(body)}</pre>", "", "file")
        try:
            text = file.read_bytes()[:LONGEST_FILE].decode("utf-8")
        except UnicodeDecodeError:
            text = "(not text)"
        try:
            language = get_lexer_for_filename(file.name).aliases[0]
        except (ClassNotFound, IndexError):
            language = "text"
        body = f"<pre class='code'><code>{highlighted(text, language)}</code></pre>"
        return Page(address, path, body, "", "file")

    def _write(
        self,
        page: Page,
        part: str,
        rendered: Rendered,
        *,
        taught: Sequence[Page],
        before: Page | None,
        after: Page | None,
    ) -> None:
        def link(address: str) -> str:
            return relative(page.address, address)

        body = rendered.html
        if page.kind == "file":
            body = f"<h1>{html.escape(page.title)}</h1>\n{page.text}"
        text = self._layout.render(
            site=TITLE,
            page=page,
            part=part,
            body=body,
            rendered=rendered,
            link=link,
            navigation=self._navigation.of(page),
            taught=taught,
            before=before,
            after=after,
        )
        self._put(page.address, text)

    def write_start(self, cards: Sequence[syllabus.Card]) -> None:
        """The page a learner opens first."""
        begin = self._parts[0].pages
        first_hour = next((page for page in begin if page.source == "docs/first_hour.md"), None)
        overview = begin[-1]
        guides = [(page.address, page.title) for page in self._parts[-1].pages]
        text = self._start.render(
            site=TITLE,
            cards=cards,
            first_hour=first_hour,
            overview=overview,
            measured=syllabus.RESULTS in overview.text,
            guides=guides,
            navigation=self._navigation.of_start(),
            exercises=sum(card.exercises for card in cards),
        )
        self._put("index.html", text)

    def _put(self, address: str, text: str) -> None:
        self.links += text.count("<a ")
        target = self._out / address
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def write_search(self) -> None:
        """``assets/search-index.js``."""
        text = search_index(self.rendered)
        (self._out / "assets" / "search-index.js").write_text(text, encoding="utf-8")
