"""Lab 1: one model, five ways to spread it over the ranks, and where every byte and second goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from common.runner import Claim, Run, main
from labs.lab1_fsdp_advanced.config import SCALES, Config

if TYPE_CHECKING:
    from labs.lab1_fsdp_advanced.parallelize import Parallelism
    from labs.lab1_fsdp_advanced.sharding import Strategy
    from labs.lab1_fsdp_advanced.worker import Job

BILLION = 1_000_000_000
SMALL = 100_000_000
"""Parameters below which every strategy is also tracked and compared; above it only trained."""

CLAIMS = (
    Claim(
        "L1.billion",
        "a model of 1B+ parameters trained over more than one rank",
        metric="full.params",
        op=">=",
        target=BILLION,
    ),
    Claim(
        "L1.billion_learns",
        "the held-out loss of that model fell",
        metric="full.loss_fell",
        op=">",
        target=0,
    ),
    Claim(
        "L1.equivalence",
        "gradients of all ranks together equal one process's to 1e-5 (fp32)",
        metric="lab1.gradient_difference",
        op="<",
        target=1e-5,
    ),
    Claim(
        "L1.by_hand",
        "data parallelism and ZeRO-1 written by hand end with one process's weights, to 1e-5",
        metric="by_hand.weight_difference",
        op="<",
        target=1e-5,
    ),
    Claim(
        "L1.resume",
        "a checkpoint goes on with another number of ranks: losses equal to 1e-5 (fp32)",
        metric="lab1.resume_loss_difference",
        op="<",
        target=1e-5,
    ),
    Claim(
        "L1.memory",
        "weights, gradients and optimizer take the predicted bytes, to 10 %",
        metric="memory.largest_error",
        op="<",
        target=0.10,
    ),
    Claim(
        "L1.learns",
        "held-out loss is below the entropy of single tokens",
        metric="learn.below_unigram",
        op=">",
        target=0,
    ),
    Claim(
        "L1.mfu",
        "model FLOP utilisation of 1B+ parameters in bf16 on the GPUs",
        metric="full.mfu",
        op=">=",
        target=0.55,
    ),
)


def story(run: Run, config: Config) -> None:
    """Make tokens, plan, train with every strategy, compare, learn, resume, and stop on purpose."""
    config = config.on(run.device, run.procs)
    with run.stage("Turn the docstrings into tokens", key="tokens"):
        job = prepare(run, config)
    with run.stage("Predict the memory of every strategy", key="plan"):
        ways = plan(run, config, job)
    with run.stage(f"Train with each strategy: {', '.join(way.name for way in ways)}", key="train"):
        trained = compare_strategies(run, config, job, ways)
    if config.variants:
        with run.stage("Train with other precisions, checkpointing, offload", key="variants"):
            compare_variants(run, config, job)
    if config.learn_steps:
        with run.stage(f"Learn the text for {config.learn_steps} steps", key="learn"):
            learn(run, config, job)
    with run.stage("Resume the checkpoint", key="resume"):
        resume(run, config, job, ways, trained)
    if config.hang:
        with run.stage("Stop the ranks on purpose, and find out why", key="hang"):
            stop_on_purpose(run)
    say_what_was_not_shown(run, config, job)


def prepare(run: Run, config: Config) -> Job:
    """The training text and the held-out text as tokens, and the job that all ranks get."""
    from common.data import load
    from common.errors import require
    from labs.lab1_fsdp_advanced.data_loading import TokenDataset, unigram_cross_entropy
    from labs.lab1_fsdp_advanced.model import SIZES
    from labs.lab1_fsdp_advanced.token_files import PARTS, cached_tokens
    from labs.lab1_fsdp_advanced.worker import Job

    require(
        config.global_batch % (run.procs * config.accumulation) == 0,
        "global_batch",
        config.global_batch,
        f"must be a multiple of {run.procs} rank(s) x accumulation = {config.accumulation}",
    )
    shape = SIZES[config.model]
    docstrings = load("docstrings")
    run.data(docstrings)
    texts = docstrings.table("docstrings")["text"].tolist()
    if config.texts:
        texts = texts[: config.texts]
    tokens = cached_tokens(texts, vocabulary=min(shape.vocabulary, 32_000), seed=run.seed)
    train, validation = (TokenDataset(tokens.folder / part, config.context) for part in PARTS)
    run.metric("tokens.train", tokens.train_tokens, unit="tokens")
    run.metric("tokens.bytes_per_token", tokens.bytes_per_token, unit="bytes")
    run.metric(
        "tokens.unigram_entropy",
        unigram_cross_entropy(train, validation, tokens.vocabulary),
        unit="nats/token",
        how="frequencies of the training text, judged on the held-out text",
    )
    return Job(
        ways=(),
        shape=shape,
        context=config.context,
        tokens=str(tokens.folder),
        global_batch=config.global_batch,
        accumulation=config.accumulation,
        steps=config.steps,
        learning_rate=config.learning_rate,
        max_norm=config.max_norm,
        device=run.device,
        seed=run.seed,
        checkpoints=str(run.work / "checkpoints"),
        logs=str(run.dir / "ranks"),
        output=str(run.work / "trained.json"),
    )


def plan(run: Run, config: Config, job: Job) -> list[Parallelism]:
    """The strategies that fit; what cannot is named, and nothing of it is allocated."""
    from labs.lab1_fsdp_advanced.planner import fitting
    from labs.lab1_fsdp_advanced.sharding import Strategy

    asked = [how(config, Strategy(name)) for name in config.strategies]
    ways, refused = fitting(job, asked, world=run.procs)
    for line in refused:
        print(line, flush=True)
        run.note(line)
    return ways


def how(config: Config, strategy: Strategy) -> Parallelism:
    """A strategy in the way that the options ask for."""
    from labs.lab1_fsdp_advanced.parallelize import Parallelism
    from labs.lab1_fsdp_advanced.precision import Precision

    assert config.checkpointing != "auto", "Config.on has chosen"
    return Parallelism(
        strategy,
        Precision(config.precision),
        config.checkpointing,
        config.offload,
        bool(config.compile),
    )


def launch(
    run: Run,
    job: Job,
    *,
    procs: int,
    what: str,
    on_result: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run a job on ``procs`` ranks, show how far it is, and read what rank 0 wrote.

    ``on_result`` gets what a job that keeps going has measured, way by way as they end.
    """
    import json
    from pathlib import Path

    from common.launch import torchrun
    from labs.lab1_fsdp_advanced.worker import LARGE, PROGRESS, RESULT

    # glibc keeps what tensors of some megabytes leave behind: 26 % of a rank's memory here. Larger
    # ones than this go back to the system at once, which is slower for a small model.
    large = run.device == "cpu" and job.shape.parameters >= LARGE
    variables = {"MALLOC_MMAP_THRESHOLD_": str(2**20)} if large else {}
    first = job.save_at if job.resume else 0
    with run.progress_bar(f"{what}, {procs} rank(s)", len(job.ways) * (job.steps - first)) as bar:
        done = 0

        def on_line(line: str) -> None:
            nonlocal done
            if line.startswith(PROGRESS):
                done += 1
                bar.update(done)
            elif on_result and line.startswith(RESULT):
                on_result(json.loads(line.removeprefix(RESULT)))

        torchrun(
            "labs.lab1_fsdp_advanced.worker",
            [str(job.write(run.work / "job.json"))],
            procs=procs,
            device=run.device,
            log=run.dir / "ranks.log",
            on_line=on_line,
            variables=variables,
        )
    results: dict[str, Any] = json.loads(Path(job.output).read_text(encoding="utf-8"))
    return results


def compare_strategies(
    run: Run, config: Config, job: Job, ways: list[Parallelism]
) -> dict[str, Any]:
    """Train every strategy from the same weights on the same batches; loss, speed and memory.

    HYBRID_SHARD needs a grid: on a CPU it gets four ranks, where two would be two whole copies.
    """
    from labs.lab1_fsdp_advanced import report
    from labs.lab1_fsdp_advanced.sharding import Strategy

    job = replace(job, save_at=save_step(job), probe=True)
    divides = config.global_batch % (4 * config.accumulation) == 0
    more = 4 if run.device == "cpu" and run.procs == 2 and divides else 0
    grid = [way for way in ways if more and way.strategy is Strategy.HYBRID_SHARD]
    # The first is the one that saves a checkpoint.
    line = tuple(sorted((w for w in ways if w not in grid), key=lambda w: w != saved_way(ways)))
    trained: dict[str, Any] = {"ways": {}, "worlds": {}}
    for some, procs in ((line, run.procs), (tuple(grid), more)):
        if some:
            save_at = job.save_at if some is line else 0
            part = replace(job, ways=some, save_at=save_at)
            found = launch(run, part, procs=procs, what="strategies")
            trained["ways"] |= found["ways"]
            trained["worlds"] |= dict.fromkeys(found["ways"], procs)
            if some is line:
                trained |= {name: found[name] for name in ("differences", "by_hand")}
            else:
                trained["differences"] |= found["differences"]
    report.strategies(run, job, ways, trained, tracker=config.tracker)
    return trained


def save_step(job: Job) -> int:
    """Late, so that little is left to do again; two steps at least."""
    return job.steps - max(2, job.steps // 5)


def saved_way(ways: list[Parallelism]) -> Parallelism:
    """The one whose checkpoint is resumed: FULL_SHARD where it is there."""
    return next((way for way in ways if way.strategy == "FULL_SHARD"), ways[0])


def compare_variants(run: Run, config: Config, job: Job) -> None:
    """A few steps of FULL_SHARD in every other way to compute."""
    from labs.lab1_fsdp_advanced import report
    from labs.lab1_fsdp_advanced.parallelize import Parallelism
    from labs.lab1_fsdp_advanced.precision import Precision

    kinds: dict[str, Parallelism] = {"fp32": Parallelism()}
    for name in config.variants:
        if name in ("bf16", "fp16", "fp8"):
            kinds[name] = Parallelism(precision=Precision(name))
        elif name in ("selective", "full"):
            kinds[name] = Parallelism(checkpointing=name)  # type: ignore[arg-type]
        else:
            kinds[name] = Parallelism(**{name: True})  # type: ignore[arg-type]
    few = replace(
        job, ways=tuple(kinds.values()), steps=config.variant_steps, checkpoints="", save_at=0
    )
    found = launch(run, few, procs=run.procs, what="variants")
    report.variants(run, few, kinds, found)


def learn(run: Run, config: Config, job: Job) -> None:
    """One longer run, with a profile of its steps."""
    from labs.lab1_fsdp_advanced import report
    from labs.lab1_fsdp_advanced.sharding import Strategy

    way = how(config, Strategy.FULL_SHARD)
    longer = replace(
        job,
        ways=(way,),
        steps=config.learn_steps,
        checkpoints=str(run.work / "learned"),
        save_at=config.learn_steps // 2,
        asynchronous=True,
        profile=str(run.dir / "traces"),
    )
    found = launch(run, longer, procs=run.procs, what="learning")["ways"][way.name]
    report.learned(run, longer, found)


def resume(
    run: Run, config: Config, job: Job, ways: list[Parallelism], trained: dict[str, Any]
) -> None:
    """Go on from the checkpoint in new processes, and compare with the ranks that never stopped.

    On one rank in fp32, where only the order of sums differs. Types with fewer digits round
    differently on another number of ranks; there the number stays, and the losses must be equal.
    """
    from labs.lab1_fsdp_advanced import report

    way = saved_way(ways)
    name = way.name
    expected, world = trained["ways"][name], trained["worlds"][name]
    procs = 1 if config.precision == "fp32" else world
    again = replace(
        job,
        ways=(way,),
        save_at=save_step(job),
        resume=True,
        output=str(run.work / "resumed.json"),
    )
    resumed = launch(run, again, procs=procs, what="resuming")["ways"][name]
    report.resumed(run, job, resumed, expected, ranks=(world, procs))


def stop_on_purpose(run: Run) -> None:
    """Two ranks, one of which takes another branch: what the Flight Recorder says."""
    from labs.lab1_fsdp_advanced.debugging import Case
    from labs.lab1_fsdp_advanced.debugging import run as fail

    folder = run.dir / "hang"
    folder.mkdir()
    said = fail(Case.BRANCH, folder)
    print(said, flush=True)
    run.note(f"A hang on purpose, as the Flight Recorder saw it: {said}")


def say_what_was_not_shown(run: Run, config: Config, job: Job) -> None:
    """A reason for each claim that this scale or machine cannot show."""
    parameters = job.shape.parameters
    if parameters < BILLION:
        small = (
            f"the model of this run has {parameters:,} parameters; --scale full trains more than "
        )
        for claim in ("L1.billion", "L1.billion_learns"):
            run.unmeasured(claim, f"{small}one billion")
        run.unmeasured("L1.mfu", "the model of this run is too small; --scale full on GPUs")
    elif run.device == "cpu":
        run.unmeasured("L1.mfu", "the target is one of GPUs; see full.mfu for this CPU")
    if run.procs < 2:
        for claim in ("L1.billion", "L1.billion_learns", "L1.equivalence", "L1.by_hand"):
            run.unmeasured(claim, "this run had one rank; the claim is about more than one")
    if config.precision != "fp32":
        run.unmeasured(
            "L1.resume",
            f"this run computes in {config.precision}, where another number of ranks rounds "
            "differently by more than 1e-5; --precision fp32 measures it",
        )
    elif run.procs == 1:
        run.unmeasured("L1.resume", "this run trained on one rank too; --procs 2 measures it")
    if not config.learn_steps:
        run.unmeasured("L1.learns", "--learn-steps 300 measures it")


if __name__ == "__main__":
    main(
        "lab1_fsdp_advanced",
        SCALES,
        story,
        title="Lab 1: advanced FSDP",
        claims=CLAIMS,
        reading=(
            "Rajbhandari et al.: ZeRO (2020), https://arxiv.org/abs/1910.02054",
            "Zhao et al.: PyTorch FSDP (2023), https://arxiv.org/abs/2304.11277",
            "PyTorch: fully_shard, "
            "https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html",
        ),
    )
