"""Whether the commands that the pages show would run, without running them.

``make`` expands its own recipes (``make -n``), ``course`` is asked by its own parser, a module is
compared with its own ``--help``, and what belongs to the system with a list.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.authoring.model import Check, listed, place
from common.authoring.pages import Page
from common.authoring.shell import ASSIGNMENT, BUILTINS, EXAMPLES, Command, commands
from common.errors import InputError
from common.exercises import catalog
from common.exercises.catalog import Entry

OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")
CHOICES = re.compile(r"(--[\w-]+) \{([^}\s]+)\}(?![|\w])")
VARIABLES = ("ARGS", "SCALE", "DEVICE")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")
HELP_S = 120
WIDE = {"COLUMNS": "200", "NO_COLOR": "1"}
TOGETHER = 2

Asked = Callable[[str], tuple[int, str]]


class Commands:
    """The commands of all pages, each checked by what would run it."""

    def __init__(
        self,
        root: Path,
        found: Sequence[Page],
        entries: Sequence[Entry],
        ask: Asked | None,
    ) -> None:
        self.root = root
        self.made = Check("make", "the target's recipe, expanded by make -n; its variables exist")
        self.course = Check("course", "accepted by the parser of course; lab and exercise exist")
        how = "the module can be run" + ("; --help knows its options" if ask else "")
        self.modules = Check("python -m", how)
        self.programs = Check("other programs", "a file of the repository, or on the list")
        self._recipes: dict[str, list[str] | str] = {}
        self._ran: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        self._entries = entries
        self._makefile = root / "Makefile"
        every = [each for page in found for each in commands(page)]
        shown = [each for each in every if isinstance(each, Command)]
        self.unread = len(every) - len(shown)
        self._expand({each.words for each in shown if each.words[0] == "make"})
        for each in shown:
            self._check(each.words, place(root, each.file, each.line))
        if ask:
            self._compare(ask)

    @property
    def checks(self) -> list[Check]:
        return [self.made, self.course, self.modules, self.programs]

    def _check(self, words: tuple[str, ...], where: str) -> None:
        name = words[0].removeprefix(".venv/bin/")
        if name == "make":
            self._make(words[1:], where)
        elif name == "course":
            self._course(words[1:], where)
        elif "-m" in words and re.fullmatch(r"python3?|torchrun", name):
            at = words.index("-m") + 1
            self._module(words[at] if at < len(words) else "", words[at + 1 :], where)
        else:
            self.programs.counted += 1
            own = "/" in name and (self.root / name).exists()
            if not own and name not in EXAMPLES | BUILTINS and not self._installed(words[0]):
                self.programs.fault(
                    where, f"{words[0]} is neither a file nor a program on the list"
                )

    def _installed(self, word: str) -> bool:
        """Whether ``.venv/bin/<name>`` is there."""
        name = word.removeprefix(".venv/bin/")
        return name != word and (Path(sys.executable).parent / name).exists()

    def _expand(self, called: set[tuple[str, ...]]) -> None:
        """Ask make for the recipe of every target, with marks where variables go."""
        if shutil.which("make") is None:
            raise InputError("make is not installed; the commands of the pages need it")
        targets = sorted({word for words in called for word in _targets(words)} | {"help"})
        with ThreadPoolExecutor(TOGETHER) as pool:
            self._recipes = dict(zip(targets, pool.map(self._recipe, targets), strict=True))

    def _recipe(self, target: str) -> list[str] | str:
        marks = [f"{name}=@{name}@" for name in VARIABLES]
        # Below `make verify`, a make of ours would otherwise take over that one's options.
        env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        answer = subprocess.run(
            ["make", "-n", target, *marks], cwd=self.root, env=env, capture_output=True, text=True
        )
        if answer.returncode != 0:
            return answer.stderr.strip().splitlines()[-1]
        if "no such lab" in answer.stdout:
            return f"there is no target {target}"
        return answer.stdout.splitlines()

    def _make(self, words: tuple[str, ...], where: str) -> None:
        self.made.counted += 1
        given = dict(word.split("=", 1) for word in words if ASSIGNMENT.fullmatch(word))
        text = self._makefile.read_text(encoding="utf-8")
        for name in given:
            if f"$({name})" not in text:
                self.made.fault(where, f"the Makefile has no variable {name}")
        for target in _targets(("make", *words)):
            recipe = self._recipes[target]
            if isinstance(recipe, str):
                self.made.fault(where, f"make {target}: {recipe}")
                continue
            called = [line for line in recipe if re.match(r"\.venv/bin/(course|python -m)", line)]
            if given.get("ARGS") and not any("@ARGS@" in line for line in recipe):
                self.made.fault(where, f"make {target} does nothing with ARGS")
            for line in called:
                if "$" in line or "-m pip" in line:
                    continue
                for name, default in zip(VARIABLES, ("", "standard", "auto"), strict=True):
                    line = line.replace(f"@{name}@", given.get(name, default))
                self._check(tuple(line.split()), where)

    def _course(self, words: tuple[str, ...], where: str) -> None:
        from common.exercises import cli

        self.course.counted += 1
        if not words:
            return
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                parsed = cli.build_parser().parse_args(list(words))
        except SystemExit as ended:
            if ended.code and len(words) > 1:
                self.course.fault(where, said.getvalue().strip().splitlines()[-1])
            elif ended.code and words[0] not in said.getvalue().partition("\n")[0]:
                # A command named without its arguments, as in running text.
                self.course.fault(where, said.getvalue().strip().splitlines()[-1])
            return
        for field, find in (("lab", self._lab), ("exercise", self._exercise)):
            value = getattr(parsed, field, None)
            if isinstance(value, str) and not PLACEHOLDER.fullmatch(value) and (why := find(value)):
                self.course.fault(where, why)

    def _lab(self, given: str) -> str:
        try:
            catalog.find_lab(self.root, given)
        except InputError as error:
            return str(error)
        return ""

    def _exercise(self, given: str) -> str:
        known = any(entry.id == given for entry in self._entries)
        return "" if known else f"there is no exercise {given}"

    def _module(self, module: str, words: tuple[str, ...], where: str) -> None:
        if "PLACEHOLDER" in module:
            return
        self.modules.counted += 1
        if why := _not_runnable(self.root, module):
            self.modules.fault(where, why)
        elif any(OPTION.match(word) for word in words):
            self._ran.setdefault(module, []).append((where, words))

    def _compare(self, ask: Asked) -> None:
        """Compare the options given to each module with its own ``--help``."""
        with ThreadPoolExecutor(TOGETHER) as pool:
            answers = list(pool.map(ask, self._ran))
        for (module, calls), (status, text) in zip(self._ran.items(), answers, strict=True):
            choices = {option: set(names.split(",")) for option, names in CHOICES.findall(text)}
            known = set(OPTION.findall(text)) | {"--help"}
            for where, words in dict.fromkeys(calls):
                if status != 0:
                    last = (text.strip().splitlines() or ["nothing is said"])[-1]
                    self.modules.fault(where, f"python -m {module} --help fails: {last}")
                    continue
                for message in _refused(words, known, choices):
                    self.modules.fault(where, f"python -m {module}: {message}")


def ask_program(root: Path, module: str) -> tuple[int, str]:
    """Exit status and text of ``python -m module --help``, from a Python of its own."""
    answer = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=root, env={**os.environ, **WIDE}, capture_output=True, text=True, timeout=HELP_S,
    )  # fmt: skip
    return answer.returncode, answer.stdout + answer.stderr


def check_commands(
    root: Path, found: Sequence[Page], entries: Sequence[Entry], ask: Asked | None = None
) -> list[Check]:
    """Check every command of every page.

    Parameters
    ----------
    root
        The repository.
    found
        Its pages.
    entries
        Its exercises.
    ask
        Status and text of a module's ``--help``, such as :func:`ask_program`. Without it the
        options of modules are not compared.
    """
    return Commands(root, found, entries, ask).checks


def _targets(words: Sequence[str]) -> list[str]:
    found = [word for word in words[1:] if not ASSIGNMENT.fullmatch(word) and word[0] != "-"]
    return [word for word in found if not PLACEHOLDER.fullmatch(word)]


def _not_runnable(root: Path, module: str) -> str:
    """Why ``python -m module`` cannot work; empty when it can."""
    below = root.joinpath(*module.split("."))
    package, file = below / "__main__.py", below.with_suffix(".py")
    if not (root / module.partition(".")[0]).is_dir():
        there = importlib.util.find_spec(module.partition(".")[0]) is not None
        return "" if there else f"there is no module {module}"
    if package.is_file():
        return ""
    if not file.is_file():
        return f"there is no module {module}"
    runs = "__name__ ==" in file.read_text(encoding="utf-8")
    return "" if runs else f"{module} does nothing when it is run"


def _refused(words: Sequence[str], known: set[str], choices: dict[str, set[str]]) -> list[str]:
    """Options that a program does not have, and values that are not among its choices."""
    found = []
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not OPTION.fullmatch(option):
            continue
        if option not in known:
            near = listed(sorted(name for name in known if name[:4] == option[:4]))
            found.append(f"it has no {option}" + (f"; it has {near}" if near else ""))
        if not equals:
            value = words[at + 1] if at + 1 < len(words) else ""
        if option in choices and value not in choices[option]:
            found.append(f"{option} {value}: choose {listed(sorted(choices[option]))}")
    return found
