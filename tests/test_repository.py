"""The repository keeps its own rules: layout, arrows, pins, links, commands, deployment files."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.assessment.bank import draw, load_file
from common.assessment.evidence import load_criteria

ROOT = Path(__file__).resolve().parents[1]
LABS = sorted(path.name for path in (ROOT / "labs").glob("lab[0-9]*") if path.is_dir())
PACKAGES = [*(f"labs.{lab}" for lab in LABS), "capstone"]
FOLDERS = ("common", "labs", "capstone", "tests", "docker", "requirements", ".github", ".ci")
LONGEST_MODULE = 420
QUICK_S = 10.0
EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b50\ufe0f]")
PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!-]+)(?: ; (.+))?")
TARGET = re.compile(r"(?:^|&& )make ((?:[A-Z_]+=\S+ )*)([a-z][a-z0-9-]*)", re.MULTILINE)

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def files(*suffixes: str) -> list[Path]:
    """The repository's own text files with one of the suffixes; what was made by running is not."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    found += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return sorted(
        path
        for path in found
        if path.suffix in suffixes
        and "__pycache__" not in path.parts
        and "secrets" not in path.parts
    )


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Absolute names of everything a module imports, wherever in it."""
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: -node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)


# --- layout -----------------------------------------------------------------------------------


def test_there_are_six_labs() -> None:
    """The syllabus is the folder listing."""
    assert [lab[:4] for lab in LABS] == [f"lab{number}" for number in range(1, 7)]


@pytest.mark.parametrize("folder", [*(f"labs/{lab}" for lab in LABS), "capstone"])
@pytest.mark.parametrize("file", ["README.md", "__main__.py", "config.py", "traps.py", "quiz.toml"])
def test_every_lab_holds_lesson_runner_configuration_traps_and_quiz(folder: str, file: str) -> None:
    """A learner finds the same five things in every folder."""
    path = ROOT / folder / file
    assert path.is_file(), f"{folder} has no {file}"
    assert path.stat().st_size > 100, f"{folder}/{file} is empty"


@pytest.mark.parametrize("folder", [*(f"labs/{lab}" for lab in LABS), "capstone"])
def test_every_quiz_can_be_asked(folder: str) -> None:
    """Four different options or a number with its formula, a reason, and a known criterion."""
    questions = load_file(ROOT / folder / "quiz.toml")
    assert len(questions) >= 12, f"{folder} asks {len(questions)} questions"
    assert sum(question.numeric for question in questions) >= 4, f"{folder} asks too few numbers"
    prompts = [question.prompt for question in questions]
    assert len(set(prompts)) == len(prompts), f"{folder} asks the same twice"
    criteria = {criterion.id for criterion in load_criteria(ROOT)}
    for question in questions:
        assert question.criterion in criteria, f"{question.id}: {question.criterion}"
        assert len(question.why.strip()) > 20, question.id
        for seed in range(40 if question.numeric else 1):
            asked = draw(question, seed)
            assert asked.right(asked.answer), f"{question.id}, seed {seed}"
            assert "{" not in asked.prompt or not question.numeric, f"{question.id}: {asked.prompt}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_trap_says_what_it_looks_at(package: str) -> None:
    """``python -m <package>.traps`` shows each function of TRAPS; importing them costs nothing."""
    traps = importlib.import_module(f"{package}.traps").TRAPS
    assert 2 <= len(traps) <= 12
    assert len({trap.__name__ for trap in traps}) == len(traps)
    assert all(trap.__doc__ for trap in traps)


# --- code -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lab", LABS)
def test_no_lab_imports_another_lab_or_the_capstone(lab: str) -> None:
    """Arrows point down only; a lab can be read, and taken away, alone."""
    for path in modules(f"labs/{lab}"):
        for name in imported(path):
            parts = name.split(".")
            assert parts[0] != "capstone", f"{name_of(path)} imports {name}"
            if parts[0] == "labs":
                assert parts[1] == lab, f"{name_of(path)} imports {name}"


def test_common_imports_neither_labs_nor_capstone() -> None:
    """What everything stands on stands on nothing of ours."""
    for path in modules("common"):
        for name in imported(path):
            assert name.split(".")[0] not in {"labs", "capstone"}, f"{name_of(path)}: {name}"


@pytest.mark.parametrize("path", modules("common", "labs", "capstone"), ids=name_of)
def test_no_module_is_two_topics(path: Path) -> None:
    """A file of more than about 400 lines is two topics."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_MODULE, f"{name_of(path)} has {lines} lines, {LONGEST_MODULE} at most"


def test_there_is_no_emoji() -> None:
    """Plain text reads the same in every terminal."""
    for path in files(".py", ".md", ".toml", ".yml", ".yaml", ".j2", ".txt", ".html", ""):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = EMOJI.search(line)
            assert not found, f"{name_of(path)}:{number} holds {found.group()!r}"


@pytest.mark.parametrize("package", PACKAGES)
def test_help_answers_at_once_without_torch(package: str) -> None:
    """Someone who asks for the options does not wait for libraries that the run needs."""
    start = time.perf_counter()
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", package, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    seconds = time.perf_counter() - start
    loaded = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert answer.returncode == 0, answer.stdout + answer.stderr[-2000:]
    assert "--scale" in answer.stdout
    assert not loaded & {"torch", "faiss", "transformers", "onnxruntime", "sklearn"}
    assert seconds < QUICK_S, f"--help took {seconds:.1f} s"


# --- packages ---------------------------------------------------------------------------------


@cache
def pins(accel: str) -> dict[str, set[tuple[str, str]]]:
    """Package to (version, marker) of ``requirements/<accel>.txt``."""
    found: dict[str, set[tuple[str, str]]] = {}
    for line in (ROOT / "requirements" / f"{accel}.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            match = PIN.fullmatch(line)
            assert match, f"requirements/{accel}.txt: not one exact version: {line!r}"
            name, version, marker = match.groups()
            found.setdefault(canonicalize_name(name), set()).add((version, marker or ""))
    return found


def project() -> dict[str, Any]:
    declared: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return declared


def test_the_two_sets_of_pins_agree() -> None:
    """CPU and GPU machines differ in the accelerated packages and in nothing else."""
    cpu, gpu = pins("cpu"), pins("gpu")
    for name in cpu.keys() & gpu.keys():
        assert cpu[name] == gpu[name], f"{name}: {cpu[name]} on CPU, {gpu[name]} on GPU"
    assert cpu.keys() - gpu.keys() == {"faiss-cpu", "onnxruntime"}


@pytest.mark.parametrize("accel", ["cpu", "gpu"])
def test_every_declared_package_is_pinned_to_a_version_it_allows(accel: str) -> None:
    """pyproject.toml says what we use, requirements/ exactly which; they must not contradict."""
    declared = project()
    extras = declared["optional-dependencies"]
    for text in [*declared["dependencies"], *extras[accel], *extras["dev"]]:
        requirement = Requirement(text)
        pinned = pins(accel).get(canonicalize_name(requirement.name))
        assert pinned, f"{requirement.name} is declared and not in requirements/{accel}.txt"
        for version, _ in pinned:
            assert requirement.specifier.contains(version, prereleases=True), f"{text}: {version}"


# --- commands ---------------------------------------------------------------------------------


@cache
def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^([a-z][a-z0-9-]*):", text, flags=re.MULTILINE))
    return named | {
        f"{verb}{number}" for verb in ("lab", "start", "check", "traps") for number in range(1, 7)
    }


@needs_make
def test_help_lists_every_target() -> None:
    """`make` alone says what there is."""
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    first_words = {line.split()[0] for line in shown.stdout.splitlines() if line.split()}
    for target in targets():
        assert target in first_words or target[:-1] + "1" in first_words, f"{target} is not listed"


@needs_make
@pytest.mark.parametrize("target", ["lab9", "start7", "check0", "trapsx"])
def test_an_unknown_lab_is_a_clear_error(target: str) -> None:
    """A mistyped lab names the labs there are, before anything is installed."""
    # Below `make test`, a make of ours would otherwise announce the folder it enters.
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    answer = subprocess.run(["make", target], cwd=ROOT, env=env, capture_output=True, text=True)
    assert answer.returncode == 2
    assert f"error: {target}: no such lab; there are lab1" in answer.stderr
    assert not answer.stdout


def test_the_readme_names_every_lab_and_option() -> None:
    """The first page is complete."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for word in [f"labs/{lab}/README.md" for lab in LABS] + [
        "capstone/README.md", "LABS_DATA_DIR", "LABS_CACHE", "TORCH_INDEX", "--scale", "--device",
        "--procs", "--out", "--seed", "--mine", "--strict", "--track",
    ]:  # fmt: skip
        assert word in text, f"README.md does not mention {word}"


# --- continuous integration and deployment ----------------------------------------------------


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_workflow_is_bounded_and_runs_real_targets(name: str) -> None:
    """Least rights, a time limit, fixed majors of actions, and make targets that exist."""
    workflow = load(f".github/workflows/{name}.yml")
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            assert re.search(r"@v\d+$", step.get("uses", "x@v1")), step
            for match in TARGET.finditer(step.get("run", "")):
                assert match[2] in targets(), step["run"]


def test_gpu_machines_never_run_the_code_of_strangers() -> None:
    """A pull request from anybody must not reach a machine of ours."""
    workflow = load(".github/workflows/gpu.yml")
    # YAML 1.1 reads the key `on` as true.
    assert set(workflow[True]) == {"push", "workflow_dispatch"}
    assert workflow["jobs"]["test"]["runs-on"] == ["self-hosted", "gpu"]


def test_the_compose_stack_names_files_that_exist_and_stays_on_loopback() -> None:
    """Build context, mounts and scrape target resolve; nothing is published to the network."""
    folder = ROOT / "docker"
    stack = load("docker/compose.yaml")
    for service in stack["services"].values():
        if "build" in service:
            context = (folder / service["build"]["context"]).resolve()
            assert context == ROOT
            assert (context / service["build"]["dockerfile"]).is_file()
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), port
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (folder / source).is_file(), volume
            else:
                assert source in stack["volumes"], volume
        for secret in service.get("secrets", []):
            assert secret in stack["secrets"]
    for secret in stack["secrets"].values():
        assert secret["file"].startswith("./secrets/")
    assert "secrets/" in (folder / ".gitignore").read_text(encoding="utf-8").split()
    scraped = load("docker/prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert scraped == ["feed:8080"]
    assert "feed" in stack["services"]


def test_the_image_is_made_of_what_exists_and_is_let_through() -> None:
    """Every COPY finds its source behind .dockerignore; the process is nobody special."""
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, flags=re.MULTILINE):
        for accel in ("cpu", "gpu"):
            path = source.replace("${ACCEL}", accel)
            assert (ROOT / path).exists(), source
            assert path.split("/")[0] in allowed, f"{source} is held back by .dockerignore"
    assert re.findall(r"^USER (\S+)", text, flags=re.MULTILINE) == ["10001:10001"]


def test_the_image_starts_the_service_with_options_it_has() -> None:
    """Entry point and compose command are options of ``python -m capstone.containers gateway``."""
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    shown = subprocess.run(
        [sys.executable, "-m", "capstone.containers", "gateway", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    command = " ".join(load("docker/compose.yaml")["services"]["feed"]["command"])
    for option in re.findall(
        r"--[a-z][a-z-]*(?=\"|,| )", text.partition("ENTRYPOINT")[2] + command
    ):
        assert option in shown, f"capstone.containers gateway has no {option}"


def test_continuous_integration_can_be_started() -> None:
    """``.ci/run`` is a program, stops at the first error, and asks for no particular machine."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith("make lint\nmake test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "nowhere"], "--host nowhere is no IPv4 address"),
        (["--token-file", "/nowhere/token"], "--token-file /nowhere/token is no file"),
        (["--out", "/nowhere"], "no bundle in /nowhere"),
    ],
)
def test_serving_says_what_it_cannot_use(arguments: list[str], message: str) -> None:
    """Bad input is one line and status 2, before a server is started."""
    answer = subprocess.run(
        [sys.executable, "-m", "capstone.serve", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"error: {message}")


def test_a_weak_token_is_refused(tmp_path: Path) -> None:
    """A token that could be guessed, or that would break the header, never reaches the gateway."""
    file = tmp_path / "token"
    for weak in ("", "short", "has spaces in between it", "über-lang-genug-für-alle"):
        file.write_text(weak, encoding="utf-8")
        answer = subprocess.run(
            [sys.executable, "-m", "capstone.serve", "--token-file", str(file)],
            cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert answer.returncode == 2
        assert "must hold one token" in answer.stderr


def test_the_service_listens_on_loopback_unless_told_otherwise() -> None:
    """Nobody is reachable from the network by accident."""
    from capstone.gateway_config import GatewayConfig
    from capstone.serve import Options

    assert Options().host == "127.0.0.1"
    assert GatewayConfig(["bundle"], "users.json", "log", 0).host == "127.0.0.1"
