"""The catalog and the stubs: what is read from the source, and what is written from it."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.exercises.catalog import (
    CatalogError,
    discover,
    discover_tests,
    find_exercise,
    find_lab,
    locate,
    order,
    sentence,
    wrong_solutions,
)
from common.exercises.stubs import append, splice, stub

GOOD = """
from common.exercises import exercise


@exercise("5.10", points=2, title="Later", hint="think")
def later():
    return 1


class Box:
    @staticmethod
    @exercise("5.2", points=3, title="First", hint="think")
    def first():
        return 1
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
    return root


def marked(arguments: str, body: str = "def f():\n    return 1\n") -> str:
    return f"from common.exercises import exercise\n\n@exercise({arguments})\n{body}"


FULL = '"5.1", points=1, title="t", hint="h"'


def test_exercises_are_found_without_an_import_and_ordered_by_number(tmp_path: Path) -> None:
    root = write(tmp_path, {"labs/lab5_x/topic.py": GOOD + "\nraise SystemExit('imported')\n"})
    first, later = discover(root)
    assert (first.id, first.points, first.title, first.hint) == ("5.2", 3, "First", "think")
    assert (first.lab, first.module, first.name) == ("lab5_x", "topic", "Box.first")
    assert (later.id, later.name) == ("5.10", "later")
    assert GOOD.splitlines()[later.line - 1] == "def later():"
    assert first.work_file(Path("w")) == Path("w/lab5_x/topic.py")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (marked('"5.1", points=1 + 1, title="t", hint="h"'), "points must be a literal"),
        (marked('f"5.1", points=1, title="t", hint="h"'), "id must be a literal"),
        (marked('**{"id": "5.1"}'), "must be a literal"),
        (marked('"5.1", points=1, title="t"'), "5.1 has no hint"),
        (marked('"5.1", points=1, title="t", hint="  "'), "5.1 has no hint"),
        (marked('"5.1", points=1, title="", hint="h"'), "5.1 has no title"),
        (marked('"5.1", points=0, title="t", hint="h"'), "points = 0"),
        (marked('"5.1", points=True, title="t", hint="h"'), "points = True"),
        (marked('"five", points=1, title="t", hint="h"'), "'five' must read"),
        (marked('"5.01", points=1, title="t", hint="h"'), "'5.01' must read"),
        (marked('"4.1", points=1, title="t", hint="h"'), r"must begin with 5\."),
        (marked('"5.1", points=1, title="t", hint="h", level=2'), "not level"),
        (marked(FULL) + marked(FULL), "is also labs/lab5_x/topic.py:4"),
        (
            marked(FULL, f"class A:\n    @exercise({FULL})\n    def g(self): ...\n"),
            "inside another",
        ),
        (f"def outer():\n    @exercise({FULL})\n    def f(): ...\n", "at the top of a module"),
        ("@exercise(\n", "topic.py:1"),
    ],
)
def test_a_marker_that_no_stub_can_be_made_from_is_an_error(
    tmp_path: Path, source: str, message: str
) -> None:
    root = write(tmp_path, {"labs/lab5_x/topic.py": source})
    with pytest.raises(CatalogError, match=message):
        discover(root)


def test_an_exercise_stands_in_a_topic_module_only(tmp_path: Path) -> None:
    root = write(tmp_path, {"labs/lab5_x/config.py": marked(FULL)})
    with pytest.raises(CatalogError, match=r"config\.py is no topic module"):
        discover(root)


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    bad = marked('"5.1", points=1, title="t"')
    root = write(tmp_path, {"labs/lab5_x/a.py": bad, "labs/lab6_y/b.py": bad})
    with pytest.raises(CatalogError, match=r"a\.py:3: .* no hint; .*b\.py:3: .* must begin with 6"):
        discover(root)


def test_a_lab_is_found_by_number_short_name_and_folder(tmp_path: Path) -> None:
    root = write(tmp_path, {"labs/lab5_x/topic.py": GOOD, "labs/lab6_y/__init__.py": ""})
    assert {find_lab(root, given) for given in ("5", "lab5", "lab5_x")} == {"lab5_x"}
    with pytest.raises(InputError, match="'7' is no lab; choose lab5_x, lab6_y"):
        find_lab(root, "7")
    with pytest.raises(InputError, match=r"'5\.3' is no exercise; choose 5\.2, 5\.10"):
        find_exercise(discover(root), "5.3")


def test_the_tests_of_an_exercise_are_read_from_their_marks(tmp_path: Path) -> None:
    tests = '''
    import pytest

    @pytest.mark.exercise("5.1")
    @pytest.mark.parametrize("x", [1])
    def test_it_falls(x):
        """Why."""

    @pytest.mark.exercise("5.2")
    class TestAll:
        def test_one(self): ...
        @pytest.mark.exercise("5.1")
        def test_two(self): ...

    def test_plain(): ...
    '''
    whole = 'import pytest\npytestmark = [pytest.mark.exercise("5.2")]\ndef test_z(): ...\n'
    files = {"tests/lab5_x/test_a.py": tests, "tests/lab5_x/test_b.py": whole}
    found = discover_tests(write(tmp_path, files), "lab5_x")
    assert [(test.exercise, test.node) for test in found] == [
        ("5.1", "tests/lab5_x/test_a.py::test_it_falls"),
        ("5.2", "tests/lab5_x/test_a.py::TestAll::test_one"),
        ("5.1", "tests/lab5_x/test_a.py::TestAll::test_two"),
        ("5.2", "tests/lab5_x/test_b.py::test_z"),
    ]
    assert (found[0].sentence, found[0].doc) == ("it falls", "Why.")


def test_wrong_solutions_belong_to_the_exercise_in_their_name(tmp_path: Path) -> None:
    names = ("e5_1_a.py", "e5_10_b.py", "e5_2_c.py", "helper.py")
    files = {f"tests/lab5_x/wrong/{name}": "" for name in names}
    root = write(tmp_path, {**files, "labs/lab5_x/topic.py": GOOD})
    later = find_exercise(discover(root), "5.10")
    assert [file.name for file in wrong_solutions(root, later)] == ["e5_10_b.py"]


def test_ids_sort_as_numbers_and_names_read_as_sentences() -> None:
    assert sorted(["5.10", "5.2", "10.1"], key=order) == ["5.2", "5.10", "10.1"]
    assert sentence("a/test_b.py::C::test_loss_falls[2.0-x]") == "loss falls (2.0-x)"


REFERENCE = '''"""Module."""

from __future__ import annotations

import math

from common.exercises import exercise

LIMIT = 3  # stays


@exercise("5.1", points=5, title='Say "hi"', hint="h")
def f(x: int, *, y: float = 2.0) -> float:  # the signature's comment stays
    """What f does.

    Second line.
    """

    # secret comment
    secret = math.sqrt(x)
    if secret:
        return secret
    # secret trailing comment


# a comment between functions stays
@exercise("5.2", points=1, title="One line", hint="h")
async def g(x): return "secret"


class Plain:
    """Stays."""

    @staticmethod
    @exercise("5.3", points=1, title="Method", hint="h")
    def m(x):
        def inner():
            return "secret"

        return inner()

    # a comment in the class stays
    def k(self):
        return 1


@exercise("5.4", points=1, title="Class", hint="h")
class Model:
    """A model."""

    width: int = 1

    def __init__(self):
        self.secret = 1

    @property
    def depth(self) -> int:
        """Depth."""; return len("secret")


@exercise("5.5", points=1, title="Part", hint="h")
def total(xs):
    result = 0
    text = "# BEGIN SOLUTION"
    for x in xs:
        # BEGIN SOLUTION
        secret = x
        result += secret
        # END SOLUTION
    return result
# the end stays
'''

STUB = '''"""Module."""

from __future__ import annotations

import math

from common.exercises import exercise

LIMIT = 3  # stays


@exercise("5.1", points=5, title='Say "hi"', hint="h")
def f(x: int, *, y: float = 2.0) -> float:  # the signature's comment stays
    """What f does.

    Second line.
    """
    raise NotImplementedError("exercise 5.1: Say \\"hi\\"")


# a comment between functions stays
@exercise("5.2", points=1, title="One line", hint="h")
async def g(x):
    raise NotImplementedError("exercise 5.2: One line")


class Plain:
    """Stays."""

    @staticmethod
    @exercise("5.3", points=1, title="Method", hint="h")
    def m(x):
        raise NotImplementedError("exercise 5.3: Method")

    # a comment in the class stays
    def k(self):
        return 1


@exercise("5.4", points=1, title="Class", hint="h")
class Model:
    """A model."""

    width: int = 1

    def __init__(self):
        raise NotImplementedError("exercise 5.4: Class")

    @property
    def depth(self) -> int:
        """Depth."""
        raise NotImplementedError("exercise 5.4: Class")


@exercise("5.5", points=1, title="Part", hint="h")
def total(xs):
    result = 0
    text = "# BEGIN SOLUTION"
    for x in xs:
        raise NotImplementedError("exercise 5.5: Part")
    return result
# the end stays
'''


def test_a_stub_keeps_everything_but_the_bodies() -> None:
    assert stub(REFERENCE) == STUB


def test_a_stub_raises_what_the_exercise_is_called() -> None:
    names: dict = {}
    exec(stub(REFERENCE), names)
    with pytest.raises(NotImplementedError, match=r'^exercise 5\.1: Say "hi"$'):
        names["f"](1)
    with pytest.raises(NotImplementedError, match=r"^exercise 5\.4: Class$"):
        names["Model"]()
    assert names["total"]([]) == 0
    assert names["Plain"]().k() == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def f():\n    # BEGIN SOLUTION\n    return 1\n", "BEGIN SOLUTION without its partner"),
        ("def f():\n    # END SOLUTION\n    return 1\n", "END SOLUTION without its partner"),
        ("def f():\n    x = 1  # BEGIN SOLUTION\n    return x\n", "a line of its own"),
        (
            "def f(): ...\n\ndef g():\n    # BEGIN SOLUTION\n    x = 1\n    # END SOLUTION\n",
            "outside every exercise",
        ),
        ("class A:\n    x = 1\n", "a class without a method"),
    ],
)
def test_a_region_that_would_leak_or_vanish_is_an_error(body: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        stub(marked(FULL, body), "topic.py")


identifiers = st.sampled_from(["a", "b", "c", "d_e", "x1"])
values = st.sampled_from(["None", "1", '"s"', "(1, 2)", "lambda z: z"])
kinds = st.sampled_from(["int", "list[int]", '"Model"', "dict[str, int] | None"])


@st.composite
def functions(draw: st.DrawFn) -> str:
    names = draw(st.lists(identifiers, unique=True, max_size=4))
    plain = draw(st.integers(0, len(names)))
    parts = []
    for at, name in enumerate(names):
        if at == plain:
            parts.append("*")
        parts.append(f"{name}: {draw(kinds)}")
        if at >= plain and draw(st.booleans()):
            parts[-1] += f" = {draw(values)}"
    if draw(st.booleans()):
        parts.append("**more: int")
    if len(parts) > 1 and parts[-2:-1] == ["*"] and parts[-1].startswith("**"):
        parts.remove("*")
    separator = draw(st.sampled_from([", ", ",\n    ", ",  # comment\n    "]))
    returns = draw(st.sampled_from(["", " -> int", ' -> "Model"', " -> list[int]"]))
    keyword = draw(st.sampled_from(["def", "async def"]))
    head = f"{keyword} f({separator.join(parts)}){returns}:"
    if draw(st.booleans()):
        return f"{head} return 'secret'\n"
    lines = [head + draw(st.sampled_from(["", "  # note"]))]
    doc = draw(st.sampled_from(["", '"""Doc."""', "'''Two\n    lines.'''", 'r"""Raw \\d."""']))
    if doc:
        lines.append(f"    {doc}")
    for _ in range(draw(st.integers(1, 4))):
        lines += draw(
            st.sampled_from(
                [
                    ["    # secret"],
                    ["", "    x = 'secret'"],
                    ["    for y in 'secret':", "        # secret", "        yield y"],
                    ["    def inner():", "        return 'secret'"],
                    ["    z = ('secret',", "'unindented')"],
                    ["    s = '''secret", "# BEGIN SOLUTION", "'''"],
                ]
            )
        )
    return "\n".join([*lines, "    pass", "    # secret"]) + "\n"


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    function=functions(), inside=st.booleans(), after=st.sampled_from(["", "# end\n", "Y = 1\n"])
)
def test_the_stub_of_any_function_compiles_and_keeps_its_signature(
    function: str, inside: bool, after: str
) -> None:
    body = textwrap.indent(function, "    ") if inside else function
    decorator = f"@exercise({FULL})"
    head = f"class A:\n    {decorator}\n" if inside else f"{decorator}\n"
    source = f"from common.exercises import exercise\n\n{head}{body}{after}"
    name = "A.f" if inside else "f"
    old = locate(source, name)
    text = stub(source)
    new = locate(text, name)
    assert isinstance(old, ast.FunctionDef | ast.AsyncFunctionDef)
    assert isinstance(new, ast.FunctionDef | ast.AsyncFunctionDef)
    assert "secret" not in text, text
    assert type(new) is type(old)
    assert ast.dump(new.args) == ast.dump(old.args)
    assert ast.dump(new.returns or ast.Pass()) == ast.dump(old.returns or ast.Pass())
    assert ast.get_docstring(new, clean=False) == ast.get_docstring(old, clean=False)
    assert isinstance(new.body[-1], ast.Raise)
    assert text.endswith(after)


def test_splicing_keeps_the_decorators_and_adds_the_imports() -> None:
    wrong = '"""Forgets."""\nfrom __future__ import annotations\nimport math\nimport os\n\n'
    text = splice(REFERENCE, "f", wrong + "def f(x, *, y=2.0):\n  if x:\n    return os.sep\n")
    names: dict = {}
    exec(text, names)
    assert names["f"](1) == "/"
    assert names["f"].__exercise__.id == "5.1"
    assert text.count("import math") == 1
    assert text.index("from common") < text.index("import os") < text.index("LIMIT")
    assert names["total"]([1, 2]) == 3


def test_a_plain_function_takes_the_place_of_a_method() -> None:
    names: dict = {}
    exec(splice(REFERENCE, "Plain.m", "def m(x):\n\treturn -x\n"), names)
    assert names["Plain"].m(2) == -2


def test_splicing_what_is_not_there_is_an_error() -> None:
    with pytest.raises(InputError, match="the replacement defines no f"):
        splice(REFERENCE, "f", "def g(): ...\n")
    with pytest.raises(InputError, match="the file defines no nothing"):
        splice(REFERENCE, "nothing", "def nothing(): ...\n")
    with pytest.raises(InputError, match="the replacement does not parse: line 1"):
        splice(REFERENCE, "f", "def f(:\n")


def test_a_deleted_function_comes_back_at_the_end() -> None:
    text = append("LIMIT = 1\n", "f", STUB)
    assert text.startswith("LIMIT = 1\n\n\n@exercise(")
    assert text.rstrip().endswith('Say \\"hi\\"")')
