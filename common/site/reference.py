"""The reference: a page a module, from signatures and docstrings read as source.

Nothing is imported, so the pages need neither torch nor a GPU. Bodies are left out: many are what
a learner is to write.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import griffe

from common.errors import InputError
from common.site.pages import Page

LATEX_BLOCK = re.compile(r"^\.\. math::[ \t]*(.*(?:\n(?:[ \t]+.*)?)*)", re.MULTILINE)
SKIPPED = {"__main__", "__init__"}


@dataclass(frozen=True)
class Package:
    """A package's pages; the first lists the rest. ``folder`` is its path in the repository."""

    folder: str
    title: str
    pages: tuple[Page, ...]
    modules: Mapping[str, str]
    """Address of a module's page by the module's name; of a module of a subpackage by its own."""


class Sources:
    """The packages of a repository, each top-level package read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._loader = griffe.GriffeLoader(
            search_paths=[root],
            allow_inspection=False,
            docstring_parser=griffe.Parser.numpy,
            docstring_options={"warnings": False},
        )

    def module(self, folder: str) -> griffe.Module:
        """The package in ``folder`` (``"labs/lab2_vector_db"``).

        Raises
        ------
        InputError
            It is no package, or a module of it is no Python; the message says which.
        """
        top, *below = folder.split("/")
        try:
            found = self._loader.modules_collection.members.get(top) or self._load(top)
            package = found[".".join(below)] if below else found
        except (ImportError, SyntaxError, KeyError, griffe.LoadingError) as error:
            raise InputError(f"{folder} cannot be read as a Python package: {error}") from error
        if not isinstance(package, griffe.Module):
            raise InputError(f"{folder} is no Python package")
        return package

    def _load(self, top: str) -> griffe.Object | griffe.Alias:
        # A folder of that name below the current one is not what is meant.
        return self._loader.load(top, try_relative_path=False)


def read_package(root: Path, package: griffe.Module, folder: str, title: str) -> Package:
    """Reference pages of a package: one that lists its modules, one for each module."""
    found = [module for module in _modules(package) if module.name not in SKIPPED]
    modules = {module.name: _address(root, module) for module in found}
    modules = {m.name: _address(root, m) for m in found if m.parent is not package} | modules
    listing = _listing(package, found, title, modules)
    first = Page(
        f"reference/{folder}/index.html", title, listing, f"{folder}/__init__.py", "reference"
    )
    pages = [
        Page(
            _address(root, module),
            module.path,
            _module_text(root, module),
            _source(root, module),
            "reference",
        )
        for module in found
    ]
    return Package(folder, title, (first, *pages), modules)


def _modules(package: griffe.Module) -> Iterator[griffe.Module]:
    for member in sorted(package.modules.values(), key=lambda module: module.name):
        if member.name.startswith("_") and member.name not in SKIPPED:
            continue
        if member.is_package or member.is_subpackage:
            yield from _modules(member)
        yield member


def _source(root: Path, module: griffe.Module) -> str:
    path = module.filepath
    assert isinstance(path, Path)
    return path.relative_to(root).as_posix()


def _address(root: Path, module: griffe.Module) -> str:
    return f"reference/{_source(root, module).removesuffix('.py').removesuffix('/__init__')}.html"


def _listing(
    package: griffe.Module,
    found: Sequence[griffe.Module],
    title: str,
    modules: Mapping[str, str],
) -> str:
    lines = [f"# {title}", "", _prose(package.docstring.value if package.docstring else ""), ""]
    lines += ["| module | what it is |", "|---|---|"]
    for module in found:
        first = module.docstring.value.strip().split("\n\n")[0] if module.docstring else ""
        summary = " ".join(first.split()).replace("|", "\\|")
        lines.append(f"| `{module.name}.py` | {summary} |")
    return "\n".join(lines)


def _module_text(root: Path, module: griffe.Module) -> str:
    lines = [f"# `{module.path}`", "", _docstring(module), ""]
    constants = [
        (attribute.name, _one_line(attribute.annotation), attribute.docstring.value)
        for attribute in module.attributes.values()
        if _is_public(attribute) and attribute.docstring and not attribute.is_alias
    ]
    if constants:
        lines += ["**Constants**", "", _definitions(constants)]
    for member in module.members.values():
        if member.is_alias or not _is_public(member):
            continue
        if isinstance(member, griffe.Function):
            lines.append(_function_text(member, "##", member.name))
        elif isinstance(member, griffe.Class):
            lines.append(_class_text(member))
    return "\n".join(lines)


def _is_public(member: griffe.Object | griffe.Alias) -> bool:
    return not member.name.startswith("_")


def _function_text(function: griffe.Function, level: str, name: str) -> str:
    note = "".join(f"\n*Exercise {number}.*\n" for number in _exercises(function))
    header = _header(function)
    return f"{level} `{name}`\n{note}\n```python\n{header}\n```\n\n{_docstring(function)}\n"


def _exercises(function: griffe.Function | griffe.Class) -> Iterator[str]:
    for decorator in function.decorators:
        match = re.match(r"exercise\(\s*['\"]([\d.]+)['\"]", str(decorator.value))
        if match:
            yield match[1]


def _class_text(cls: griffe.Class) -> str:
    fields = [
        attribute
        for attribute in cls.attributes.values()
        if _is_public(attribute) and not attribute.is_alias and attribute.annotation is not None
    ]
    code = [_header(cls)]
    for attribute in fields:
        value = "" if attribute.value is None else f" = {_one_line(attribute.value)}"
        if "instance-attribute" in attribute.labels and "class-attribute" not in attribute.labels:
            value = ""
        code.append(f"    {attribute.name}: {_one_line(attribute.annotation)}{value}")
    if len(code) > 1:
        code[0] += ":"
    made = cls.members.get("__init__")
    if isinstance(made, griffe.Function) and made.lineno:
        code.append(textwrap.indent(_header(made), "    "))
    note = "".join(f"\n*Exercise {number}.*\n" for number in _exercises(cls))
    parts = [
        f"## `{cls.name}`\n{note}",
        "```python",
        "\n".join(code),
        "```",
        "",
        _docstring(cls),
        "",
    ]
    described = [
        (attribute.name, "", attribute.docstring.value)
        for attribute in cls.attributes.values()
        if _is_public(attribute)
        and not attribute.is_alias
        and attribute.docstring
        and "property" not in attribute.labels
    ]
    if described:
        parts += ["**Fields**", "", _definitions(described)]
    for member in cls.members.values():
        if member.is_alias or not _is_public(member):
            continue
        if isinstance(member, griffe.Function):
            parts.append(_function_text(member, "###", f"{cls.name}.{member.name}"))
        elif isinstance(member, griffe.Attribute) and "property" in member.labels:
            text = _docstring(member)
            kind = _one_line(member.annotation)
            parts.append(f"### `{cls.name}.{member.name}`\n\nA property: `{kind}`. {text}\n")
    return "\n".join(parts)


def _header(member: griffe.Function | griffe.Class) -> str:
    """The ``def`` or ``class`` line as it is written, over as many lines as it takes."""
    taken: list[str] = []
    depth = 0
    for line in textwrap.dedent(member.source).splitlines():
        if not taken and not re.match(r"(async def|def|class)\b", line):
            continue
        code = line.split("  #")[0].rstrip()
        taken.append(code)
        depth += sum(code.count(c) for c in "([{") - sum(code.count(c) for c in ")]}")
        if depth <= 0 and code.endswith((":", "...")):
            break
    return "\n".join(taken).removesuffix("...").rstrip().removesuffix(":")


def _one_line(expression: object) -> str:
    text = " ".join(str(expression).split()) if expression is not None else ""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _prose(text: str) -> str:
    """Docstring text as Markdown: displayed formulas between dollars, quoted code fenced."""

    def shown(match: re.Match[str]) -> str:
        return f"$$\n{textwrap.dedent(match[1]).strip()}\n$$\n\n"

    text = LATEX_BLOCK.sub(shown, text)
    text = re.sub(r":[a-z]+:`([^`]+)`", r"`\1`", text)
    return re.sub(r"::\n\n((?:[ ]{2,}.*\n?|\n)+)", r":\n\n\1", text)


def _docstring(member: griffe.Object) -> str:
    if member.docstring is None:
        return ""
    parts = []
    for section in member.docstring.parsed:
        kind, value = section.kind.value, section.value
        if kind == "text":
            parts.append(_prose(value))
        elif kind == "examples":
            code = "\n".join(text for _, text in value)
            parts.append(f"**Example**\n\n```pycon\n{code}\n```\n")
        elif kind == "admonition":
            parts.append(f"**{section.title}**\n\n{_prose(value.contents)}\n")
        elif isinstance(value, list):
            items = [
                (getattr(item, "name", "") or "", _one_line(item.annotation), item.description)
                for item in value
            ]
            parts.append(f"**{kind.capitalize().replace('_', ' ')}**\n\n{_definitions(items)}")
    return "\n\n".join(parts)


def _definitions(items: Sequence[tuple[str, str, str]]) -> str:
    """A Markdown definition list of (name, type, text)."""
    lines = []
    for name, kind, text in items:
        # A type is code; "float64 array of shape [n]" is a phrase.
        if re.fullmatch(r"[\w.\[\], |'\"*()-]+", kind) and (name or " " not in kind):
            kind = f"`{kind}`"
        term = " : ".join(part for part in (f"`{name}`" if name else "", kind) if part)
        body = textwrap.indent(_prose(text).strip(), "    ").strip() or "&nbsp;"
        lines.append(f"{term or '&nbsp;'}\n:   {body}\n")
    return "\n".join(lines)
