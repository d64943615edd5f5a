"""Make the learner's stub from the reference source, and put one definition into another file."""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

import libcst as cst

from common.errors import InputError
from common.exercises.catalog import marker_of

BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"

Definition = cst.FunctionDef | cst.ClassDef
Marked = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class _Marked:
    """A marked definition: the exercise, and the lines it stands on."""

    id: str
    title: str
    first: int
    last: int

    @property
    def raises(self) -> str:
        message = json.dumps(f"exercise {self.id}: {self.title}", ensure_ascii=False)
        return f"raise NotImplementedError({message})"


def stub(source: str, filename: str = "<reference>") -> str:
    """The learner's file: every marked body becomes ``raise NotImplementedError(...)``.

    Signature, types, decorators, docstring and everything outside the bodies stay. Where a marked
    definition holds ``# BEGIN SOLUTION`` and ``# END SOLUTION`` lines, only the lines between them
    go. Of a marked class, the body of every method goes. What is a stub already stays as it is.

    Parameters
    ----------
    source
        Text of a topic module.
    filename
        For messages.

    Raises
    ------
    InputError
        For a ``BEGIN SOLUTION`` without its ``END SOLUTION``, one outside every exercise, or a
        stub that would not compile.
    """
    everything = _marked(source)
    owners = []
    for begin, _ in _regions(source, filename):
        owner = [each for each in everything if each.first < begin <= each.last]
        if not owner:
            raise InputError(f"{filename}:{begin}: {BEGIN} stands outside every exercise")
        owners.append(owner[0])
    written = {line.strip() for line in source.splitlines()}
    whole = {
        each.id: each
        for each in everything
        if each not in owners and each.raises not in written  # else it is a stub already
    }
    blanker = _Blanker(whole)
    text = cst.parse_module(source).visit(blanker).code
    if full := sorted(set(whole) - blanker.blanked):
        raise InputError(f"{filename}: exercise {full[0]} marks a class without a method to write")
    lines = list(io.StringIO(text))
    # The bodies that went held no region, so the regions are still in the same order.
    pairs = zip(_regions(text, filename), owners, strict=True)
    for (begin, end), marked in reversed(list(pairs)):
        start = lines[begin - 1]
        indent = start[: len(start) - len(start.lstrip())]
        lines[begin - 1 : end] = [f"{indent}{marked.raises}\n"]
    return _compiled("".join(lines), filename)


def splice(reference: str, name: str, replacement: str, *, keep_decorators: bool = True) -> str:
    """``reference`` with its definition ``name`` replaced by the one in ``replacement``.

    Parameters
    ----------
    reference
        Source text that holds the definition.
    name
        Qualified name. For ``"Index.search"`` the replacement holds either a class ``Index`` with
        that method, or a plain function ``search``.
    replacement
        Source text with the new definition and the imports it needs; those are added after the
        imports of ``reference``.
    keep_decorators
        Whether the decorators of ``reference`` stay, or those of ``replacement`` come.

    Raises
    ------
    InputError
        When either text does not parse or lacks the definition.
    """
    target, given = _parse(reference, "the file"), _parse(replacement, "the replacement")
    old = _find(target, name)
    new = _find(given, name) or _find(given, name.rpartition(".")[2])
    if old is None or new is None:
        where = "the file" if old is None else "the replacement"
        raise InputError(f"{where} defines no {name}")
    changes: dict[str, object] = {"leading_lines": old.leading_lines}
    if keep_decorators:
        changes["decorators"] = old.decorators
        changes["lines_after_decorators"] = old.lines_after_decorators
    changed = target.deep_replace(old, new.with_changes(**changes))
    assert isinstance(changed, cst.Module)
    return _compiled(_with_imports(changed, _imports(given)).code, "the spliced source")


def append(source: str, name: str, replacement: str) -> str:
    """``source`` with the top-level definition ``name`` of ``replacement`` at its end."""
    new = _find(_parse(replacement, "the replacement"), name)
    if new is None or "." in name:
        raise InputError(f"{name} is no top-level definition of the replacement")
    blank = cst.EmptyLine(indent=False)
    lines = [blank, blank, *(line for line in new.leading_lines if line.comment)]
    target = _parse(source, "the file")
    changed = target.with_changes(body=[*target.body, new.with_changes(leading_lines=lines)])
    return _compiled(changed.code, "the file")


def _parse(source: str, what: str) -> cst.Module:
    try:
        return cst.parse_module(source)
    except cst.ParserSyntaxError as error:
        raise InputError(
            f"{what} does not parse: line {error.raw_line}, {error.message}"
        ) from error


def _compiled(source: str, filename: str) -> str:
    try:
        compile(source, filename, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise InputError(f"{filename}:{error.lineno}: does not compile: {error.msg}") from error
    return source


def _regions(source: str, filename: str) -> list[tuple[int, int]]:
    """Line numbers of each BEGIN and END comment; a string that holds the words is no marker."""
    found: list[tuple[int, int]] = []
    begin = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or token.string.rstrip() not in (BEGIN, END):
            continue
        line, opens = token.start[0], token.string.rstrip() == BEGIN
        if token.line.strip() != token.string.rstrip():
            raise InputError(f"{filename}:{line}: {token.string} must have a line of its own")
        if opens == bool(begin):
            raise InputError(f"{filename}:{line}: {token.string} without its partner")
        if opens:
            begin = line
        else:
            found.append((begin, line))
            begin = 0
    if begin:
        raise InputError(f"{filename}:{begin}: {BEGIN} without its partner")
    return found


def _marker(node: Definition) -> tuple[str, str] | None:
    """Id and title of the ``@exercise(...)`` on a definition."""
    for decorator in node.decorators:
        call = decorator.decorator
        if not isinstance(call, cst.Call):
            continue
        last = call.func.attr if isinstance(call.func, cst.Attribute) else call.func
        if isinstance(last, cst.Name) and last.value == "exercise":
            given = {arg.keyword.value if arg.keyword else "id": arg.value for arg in call.args}
            code = cst.Module(body=[]).code_for_node
            return tuple(ast.literal_eval(code(given[key])) for key in ("id", "title"))
    return None


def _marked(source: str) -> list[_Marked]:
    """The marked definitions of a source text, outermost first."""
    found = []
    for node in ast.walk(ast.parse(source)):
        call = marker_of(node)
        if call is None or not isinstance(node, Marked):
            continue
        given = {"id": call.args[0]} if call.args else {}
        given |= {word.arg: word.value for word in call.keywords if word.arg}
        name, title = (ast.literal_eval(given[key]) for key in ("id", "title"))
        found.append(_Marked(name, title, node.lineno, node.end_lineno or node.lineno))
    return found


class _Blanker(cst.CSTTransformer):
    """Replaces the bodies of the marked definitions, by id."""

    def __init__(self, marked: dict[str, _Marked]) -> None:
        super().__init__()
        self.marked = marked
        self.open: list[_Marked] = []
        self.blanked: set[str] = set()

    def _of(self, node: Definition) -> _Marked | None:
        marker = _marker(node)
        return self.marked.get(marker[0]) if marker else None

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        if marked := self._of(node):
            self.open.append(marked)
        return not self.open

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        if marked := self._of(node):
            self.open.append(marked)

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef:
        if not self.open:
            return updated_node
        raises = self.open[-1].raises
        self.blanked.add(self.open[-1].id)
        if self._of(original_node):
            self.open.pop()
        return updated_node.with_changes(body=_blank(updated_node.body, raises))

    def leave_ClassDef(
        self, original_node: cst.ClassDef, updated_node: cst.ClassDef
    ) -> cst.ClassDef:
        if self._of(original_node):
            self.open.pop()
        return updated_node


def _blank(body: cst.BaseSuite, raises: str) -> cst.IndentedBlock:
    statement = cst.parse_statement(raises)
    if not isinstance(body, cst.IndentedBlock):
        kept: list[cst.BaseStatement] = []
        if docstring := _docstring(body.body):
            kept = [cst.SimpleStatementLine([docstring])]
        return cst.IndentedBlock([*kept, statement])
    first = body.body[0]
    docstring = _docstring(first.body) if isinstance(first, cst.SimpleStatementLine) else None
    if not isinstance(first, cst.SimpleStatementLine) or docstring is None:
        return cst.IndentedBlock([statement], header=body.header, indent=body.indent)
    kept = [first.with_changes(body=[docstring])]
    return cst.IndentedBlock([*kept, statement], header=body.header, indent=body.indent)


def _docstring(
    statements: Sequence[cst.BaseSmallStatement | cst.BaseStatement],
) -> cst.BaseSmallStatement | None:
    first = statements[0]
    if isinstance(first, cst.Expr) and isinstance(
        first.value, cst.SimpleString | cst.ConcatenatedString
    ):
        return first.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)
    return None


def _find(module: cst.Module, name: str) -> Definition | None:
    """The definition with a qualified name: the marked one, else the last."""
    bodies: list[Sequence[cst.BaseStatement | cst.BaseSmallStatement]] = [module.body]
    *outer, last = name.split(".")
    for part in outer:
        bodies = [
            node.body.body
            for body in bodies
            for node in body
            if isinstance(node, cst.ClassDef) and node.name.value == part
        ]
    found = [
        node
        for body in bodies
        for node in body
        if isinstance(node, Definition) and node.name.value == last
    ]
    marked = [node for node in found if _marker(node)]
    chosen = marked or found
    return chosen[-1] if chosen else None


def _import_of(node: cst.CSTNode) -> cst.Import | cst.ImportFrom | None:
    if isinstance(node, cst.SimpleStatementLine):
        for small in node.body:
            if isinstance(small, cst.Import | cst.ImportFrom):
                return small
    return None


def _is_future(node: cst.CSTNode) -> bool:
    statement = _import_of(node)
    return (
        isinstance(statement, cst.ImportFrom)
        and isinstance(statement.module, cst.Name)
        and statement.module.value == "__future__"
    )


def _imports(module: cst.Module) -> list[cst.SimpleStatementLine]:
    return [
        node
        for node in module.body
        if isinstance(node, cst.SimpleStatementLine) and _import_of(node)
    ]


def _bare(node: cst.SimpleStatementLine) -> cst.SimpleStatementLine:
    """The statement without the comments around it."""
    return node.with_changes(leading_lines=[], trailing_whitespace=cst.TrailingWhitespace())


def _with_imports(module: cst.Module, added: list[cst.SimpleStatementLine]) -> cst.Module:
    present = {module.code_for_node(_bare(node)) for node in _imports(module)}
    new = [bare for bare in map(_bare, added) if module.code_for_node(bare) not in present]
    body = list(module.body)
    header = next((at for at, node in enumerate(body) if isinstance(node, Definition)), len(body))
    places = [at for at, node in enumerate(body[:header]) if _import_of(node)]
    first = 1 if body and _is_docstring(body[0]) else 0
    end = places[-1] + 1 if places else first
    plain = [node for node in new if not _is_future(node)]
    future = [node for node in new if _is_future(node)]
    return module.with_changes(body=[*body[:first], *future, *body[first:end], *plain, *body[end:]])


def _is_docstring(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.SimpleStatementLine) and _docstring(node.body) is not None
