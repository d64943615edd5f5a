"""What turns a lab's story into a run: options, results, report, exit status."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from common import hardware, report, scorecard, tracking
from common.errors import EXIT_FAILED, EXIT_OK, InputError, RunError, exit_status
from common.exercises.overlay import VARIABLE, overlaid_files
from common.exercises.unsolved import advice
from common.options import RunOptions, parse
from common.progress import Progress, track
from common.results import Claim, Metric, Results, RunFolder, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from common.data import Dataset
    from common.latency import LatencySummary

__all__ = ["Claim", "Run", "main"]

ConfigT = TypeVar("ConfigT")
T = TypeVar("T")
OUTPUT_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES}
OUTPUT_FAULTS |= {errno.EPIPE}
MOST_NAMED = 3
INTERRUPTED = "interrupted: nothing was written, nothing is left running"
ROOT = Path(__file__).resolve().parent.parent


class Run:
    """One run of a lab: what it may use, and where it puts what it measures.

    Attributes
    ----------
    options : RunOptions
    device : str
        ``"cpu"`` or ``"cuda"``.
    procs : int
        Ranks that train.
    dir : Path
        The run's folder while it is being written; what should stay goes below it.
    work : Path
        A temporary folder, removed afterwards.
    """

    def __init__(self, options: RunOptions, results: Results, folder: Path, work: Path) -> None:
        self.options, self.results = options, results
        self.dir, self.work = folder, work
        self.device, self.procs = results.device, results.procs
        self.seed, self.scale = options.seed, options.scale
        self.hardware = hardware.detect().sentence
        self.figures: list[report.FigureFile] = []
        self.notes: list[str] = []

    @contextmanager
    def stage(self, name: str, key: str | None = None) -> Iterator[None]:
        """Announce a stage and time it (metric ``time.<key>_s``)."""
        print(f"[{key or name}] {name if key else ''}".rstrip(), flush=True)
        start = time.perf_counter()
        yield
        slug = re.sub(r"\W+", "_", (key or name).lower()).strip("_")
        self.metric(f"time.{slug}_s", round(time.perf_counter() - start, 2), unit="s")

    def metric(
        self,
        name: str,
        value: float | int | None,
        *,
        unit: str,
        n: int | None = None,
        ci95: tuple[float, float] | None = None,
        how: str = "",
        reason: str = "",
    ) -> None:
        """Record what this run measured; ``value=None`` needs a ``reason``."""
        if value is not None:
            value = value if type(value) is int else float(value)
        if ci95 is not None:
            ci95 = (float(ci95[0]), float(ci95[1]))
        n = None if n is None else int(n)
        self.results.metrics[name] = Metric(value, unit, n, ci95, how, reason)

    def latency(self, area: str, summary: LatencySummary) -> None:
        """Record ``<area>.p50_ms``, ``.p95_ms`` and ``.p99_ms``."""
        for quantile in ("p50_ms", "p95_ms", "p99_ms"):
            value = getattr(summary, quantile)
            self.metric(f"{area}.{quantile}", value, unit="ms", n=summary.n, how=summary.how)

    def unmeasured(self, claim: str, reason: str) -> None:
        """This scale or machine cannot show ``claim``: its outcome is null, with the reason."""
        if not reason.strip():
            raise ValueError(f"{claim} needs a reason why it cannot be shown")
        self.results.unmeasured[claim] = reason

    def data(self, dataset: Dataset) -> None:
        """Record where a dataset came from."""
        entry = asdict(dataset.provenance)
        if entry not in self.results.data:
            self.results.data.append(entry)

    def figure(self, name: str, figure: Figure, *, caption: str) -> None:
        """Save a matplotlib figure as ``figures/<name>.png`` and show it in the report."""
        path = self.dir / "figures" / f"{name}.png"
        figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
        self.figures.append(report.FigureFile(path, caption))

    def note(self, text: str) -> None:
        """A sentence for the report."""
        self.notes.append(text)

    def progress(
        self, items: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """Iterate with a progress bar."""
        return track(items, description, total)

    def progress_bar(self, description: str, total: int | None) -> Progress:
        """A bar to update by hand: ``with run.progress_bar(...) as bar: bar.update(done)``."""
        return Progress(description, total)


def main(
    lab: str,
    scales: Mapping[str, ConfigT],
    story: Callable[[Run, ConfigT], None],
    *,
    title: str,
    claims: Sequence[Claim] = (),
    reading: Sequence[str] = (),
    program: str | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Run ``story`` from the command line and exit.

    Exit status: 0 the run completed; 1 it failed; 2 bad arguments or input; 130 interrupted.
    Nothing half-written stays: the run's folder appears only when it is complete.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and so do we
            signal.signal(number, _interrupt)

    def command() -> int:
        module = program or (lab if lab == "capstone" else f"labs.{lab}")
        try:
            options, config = parse(f"python -m {module}", title, scales, argv)
            return _run(lab, options, config, story, title, tuple(claims), tuple(reading))
        except (RunError, NotImplementedError) as error:
            if (message := advice(error)) is None:
                raise
            raise RunError(message) from error
        except OSError as error:
            if error.errno not in OUTPUT_FAULTS:
                raise
            where = f" ({error.filename})" if error.filename else ""
            raise RunError(f"{error.strerror}{where}: nothing was published") from error

    sys.exit(exit_status(command, interrupted=INTERRUPTED, told=()))


def _run(
    lab: str,
    options: RunOptions,
    config: ConfigT,
    story: Callable[[Run, ConfigT], None],
    title: str,
    claims: tuple[Claim, ...],
    reading: tuple[str, ...],
) -> int:
    machine = hardware.detect()
    device = hardware.choose_device(options.device, machine)
    procs = hardware.choose_procs(options.procs, device, machine)
    tracking.require_tracker(options.track)
    mine = _use_my_code(options.mine, lab)
    results = Results(
        lab=lab,
        scale=options.scale,
        device=device,
        procs=procs,
        seed=options.seed,
        mine=bool(mine),
        config=config,
        hardware=asdict(machine),
        versions=hardware.versions(),
    )
    folder = RunFolder(options.out, lab, options.scale, results.started_at)
    try:
        print(f"{title}: {options.scale} scale, {device}, {procs} rank(s), seed {options.seed}")
        if mine:
            print(f"running your code: {_named(mine)}", flush=True)
        with tempfile.TemporaryDirectory(prefix=f"{lab}-") as work:
            run = Run(options, results, folder.partial, Path(work))
            story(run, config)
        written = results.as_json(claims)
        page = report.render(
            written,
            title=title,
            machine=machine.sentence,
            figures=run.figures,
            notes=run.notes,
            reading=reading,
            overlaid=mine,
        )
        (folder.partial / "report.html").write_text(page, encoding="utf-8")
        write_json(folder.partial / "config.json", written["config"])
        write_json(folder.partial / "results.json", written)
        final = folder.publish()
    except BaseException:
        folder.discard()
        raise
    with _published(final):
        if options.track != "none":
            tracking.report(options.track, written, final, options.out)
        scorecard.show(written, final)
        sys.stdout.flush()
    missed = any(row["passed"] is False for row in written["deliverables"])
    return EXIT_FAILED if options.strict and missed else EXIT_OK


def _use_my_code(asked: bool, lab: str) -> list[str]:
    """Turn the overlay on for this process and all it starts; the files it takes from work/."""
    if asked:
        os.environ.setdefault(VARIABLE, str(ROOT / "work"))
    files = overlaid_files("*" if lab == "capstone" else lab)
    if asked and not files:
        what, first = ("any lab", "lab1") if lab == "capstone" else (lab, lab.partition("_")[0])
        raise InputError(
            f"--mine: no solution of {what} in {os.environ[VARIABLE]}; "
            f"begin with `course start {first}`"
        )
    folder = Path(os.environ[VARIABLE]).resolve() if files else Path()
    return [str(file.relative_to(folder.parent)) for file in files]


def _named(files: Sequence[str]) -> str:
    """A few files by name, many by folder: in a student's repository every stub is one."""
    if len(files) <= MOST_NAMED:
        return ", ".join(files)
    folders = Counter(os.path.dirname(file) for file in files)
    listed = ", ".join(f"{folder} ({count})" for folder, count in folders.items())
    return f"{len(files)} files: {listed}"


@contextmanager
def _published(final: Path) -> Iterator[None]:
    """What fails from here on fails after the run: say so, and where the run is."""
    try:
        yield
    except (KeyboardInterrupt, OSError, RunError) as error:
        what = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        raise RunError(f"{what}; the run itself is complete: {final}") from error


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
