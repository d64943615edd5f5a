"""Markdown, read as GitHub reads it, to HTML: formulas, diagrams, code, links that stay inside."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.deflist import deflist_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from common.site.pages import Addresses, Page, Rendered, Section, relative

FORMATTER = HtmlFormatter[str](nowrap=True)
OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)
MODULE = re.compile(r"[a-z_][a-z0-9_]*(?:\.py)?")
SHELL_WORDS = ("make ", "course ", "python ", ".venv/", "curl ", "pip ", "git ", "$ ", "docker ")


def slug(heading: str) -> str:
    """The anchor GitHub gives a heading, of its text without markup."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def highlighted(code: str, language: str) -> str:
    """Code in HTML with a span for each kind of word; plain when the language is not known."""
    if not language and code.lstrip().startswith(SHELL_WORDS):
        language = "console" if code.startswith("$ ") else "bash"
    lexer = _lexer(language)
    return str(highlight(code, lexer, FORMATTER)) if lexer else html.escape(code)


@lru_cache
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language or "text", stripnl=False)
    except ClassNotFound:
        return None


def code_styles() -> str:
    """Style sheet of highlighted code, light and dark; dark follows the system or the choice."""
    light = HtmlFormatter[str](style="vs").get_style_defs(".code")
    dark = HtmlFormatter[str](style="github-dark")
    rules = [light, dark.get_style_defs(':root[data-theme="dark"] .code')]
    by_system = dark.get_style_defs(':root:not([data-theme="light"]) .code')
    rules.append(f"@media (prefers-color-scheme: dark) {{\n{by_system}\n}}")
    # The panel's colours are the site's own.
    kept = [
        line
        for line in "\n".join(rules).splitlines()
        if not re.search(r"\.code \{|^pre|^td|^span", line)
    ]
    return "\n".join(kept) + "\n"


class Reader:
    """Renders pages against one set of addresses.

    Parameters
    ----------
    addresses
        Where links lead; collects those that lead nowhere.
    modules
        For each package (``"labs/lab2_vector_db"``) its modules' reference pages by name: code
        that names a module links there.
    """

    def __init__(self, addresses: Addresses, modules: Mapping[str, Mapping[str, str]]) -> None:
        self._addresses = addresses
        self._modules = modules
        self._parser = MarkdownIt("commonmark", {"html": True, "highlight": None})
        self._parser.enable(["table", "strikethrough"])
        self._parser.use(deflist_plugin)
        self._parser.use(
            dollarmath_plugin, allow_space=False, allow_digits=False, allow_labels=False
        )
        for name in (
            "fence",
            "code_block",
            "math_inline",
            "math_block",
            "table_open",
            "table_close",
        ):
            self._parser.add_render_rule(name, getattr(self, f"_{name}"))
        self._parser.add_render_rule("math_inline_double", self._math_block)

    def render(self, page: Page) -> Rendered:
        """The page in HTML, its headings with GitHub's anchors, its text by section."""
        env: dict[str, Any] = {"math": False, "diagrams": False}
        tokens = self._parser.parse(page.text, env)
        named: dict[str, None] = {}
        modules = self._modules_near(page)
        anchors: dict[str, int] = {}
        headings: list[tuple[int, str, str]] = []
        texts: list[tuple[str, str, list[str]]] = [("", page.title, [])]
        in_table = False
        for index, token in enumerate(tokens):
            in_table = (in_table or token.type == "table_open") and token.type != "table_close"
            if token.type == "heading_open":
                inline = tokens[index + 1]
                plain = _plain(inline.children or [])
                anchor = _unique(slug(plain), anchors)
                token.attrSet("id", anchor)
                level = int(token.tag[1])
                if level > 1:
                    headings.append((level, anchor, html.escape(plain)))
                    texts.append((anchor, plain, []))
            elif token.type == "inline":
                self._links(page, token, modules, in_table, named)
                if tokens[index - 1].type != "heading_open":
                    texts[-1][2].append(_plain(token.children or []))
            elif token.type in ("fence", "code_block") and token.info.strip() != "mermaid":
                texts[-1][2].append(token.content.strip())
        body = self._parser.renderer.render(tokens, self._parser.options, env)
        return Rendered(
            html=body,
            headings=tuple(headings),
            sections=tuple(Section(a, h, " ".join(t).strip()) for a, h, t in texts),
            modules=tuple(named),
            has_math='class="math' in body,
            has_diagrams='class="mermaid"' in body,
        )

    def _modules_near(self, page: Page) -> Mapping[str, str]:
        """The modules that a bare file name on this page means."""
        for folder, modules in self._modules.items():
            if page.source.startswith(f"{folder}/") or page.address.startswith(f"{folder}/"):
                return modules
        return {}

    def _links(
        self,
        page: Page,
        inline: Token,
        modules: Mapping[str, str],
        in_table: bool,
        named: dict[str, None],
    ) -> None:
        """Point links and pictures at pages of the site; make a module's name a link."""
        children: list[Token] = []
        depth = 0
        for token in inline.children or []:
            if token.type == "link_open":
                depth += 1
                target = str(token.attrs.get("href", ""))
                if OUTSIDE.match(target):
                    token.attrSet("rel", "noopener")
                else:
                    token.attrSet("href", self._addresses.resolve(page, target))
            elif token.type == "link_close":
                depth -= 1
            elif token.type == "image":
                token.attrSet("src", self._addresses.resolve(page, str(token.attrs.get("src", ""))))
                token.attrSet("loading", "lazy")
            address = self._module(token, modules, in_table)
            if address is not None:
                named[address] = None
            if address is None or depth or address == page.address:
                children.append(token)
                continue
            opened = Token("link_open", "a", 1)
            opened.attrs = {"href": relative(page.address, address), "class": "module"}
            children += [opened, token, Token("link_close", "a", -1)]
        inline.children = children

    @staticmethod
    def _module(token: Token, modules: Mapping[str, str], in_table: bool) -> str | None:
        if token.type != "code_inline" or not MODULE.fullmatch(token.content):
            return None
        name = token.content.removesuffix(".py")
        # A bare word is a module's name in a table of modules; in a sentence it may be any name.
        if not (in_table or token.content.endswith(".py") or name.count("_")):
            return None
        return modules.get(name)

    # Render rules: (tokens, index, options, env) -> HTML.

    def _fence(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        language = token.info.strip().split(" ")[0]
        if language == "mermaid":
            source = html.escape(token.content.strip())
            return f'<div class="diagram"><pre class="mermaid">{source}</pre></div>\n'
        return f'<pre class="code"><code>{highlighted(token.content, language)}</code></pre>\n'

    def _code_block(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return f'<pre class="code"><code>{html.escape(tokens[index].content)}</code></pre>\n'

    def _math_inline(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return f'<span class="math">{html.escape(tokens[index].content)}</span>'

    def _math_block(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return f'<span class="math display">{html.escape(tokens[index].content.strip())}</span>\n'

    def _table_open(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return '<div class="table"><table>\n'

    def _table_close(self, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return "</table></div>\n"


def _plain(children: Sequence[Token]) -> str:
    """The text of inline tokens without markup."""
    parts = []
    for token in children:
        if token.type in ("text", "code_inline", "math_inline", "math_inline_double"):
            parts.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif token.type == "image":
            parts.append(token.content)
    return "".join(parts)


def _unique(anchor: str, seen: dict[str, int]) -> str:
    count = seen.get(anchor, 0)
    seen[anchor] = count + 1
    return f"{anchor}-{count}" if count else anchor
