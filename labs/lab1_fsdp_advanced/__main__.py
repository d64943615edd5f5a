"""Lab 1: one model, four ways to spread it over the ranks, and what each costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.runner import Claim, Run, main
from labs.lab1_fsdp_advanced.config import SCALES, Config

if TYPE_CHECKING:
    from labs.lab1_fsdp_advanced.worker import Spec

BILLION = 1_000_000_000
WORKER = "labs.lab1_fsdp_advanced.worker"
VALIDATION_SHARE = 0.05

CLAIMS = (
    Claim(
        "L1.billion",
        "a model of 1B+ parameters trained over more than one rank",
        metric="lab1.parameters",
        op=">=",
        target=BILLION,
    ),
    Claim(
        "L1.equivalence",
        "gradients of all ranks together equal one process's to 1e-5 (fp32)",
        metric="lab1.gradient_difference",
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
)


def story(run: Run, config: Config) -> None:
    """Write the text, train with each strategy, compare, and resume on one rank."""
    with run.stage("Write the docstrings as bytes", key="corpus"):
        spec = prepare(run, config)
    with run.stage(f"Train with each strategy on {run.procs} rank(s)", key="train"):
        trained = launch(run, spec, procs=run.procs)
        report(run, trained, config)
    with run.stage("Resume the checkpoint on one rank", key="resume"):
        resume(run, spec, trained, config)
    draw(run, trained)


def prepare(run: Run, config: Config) -> Spec:
    """The training text and the held-out text, and the job that all ranks get."""
    from common.data import load
    from common.errors import require
    from labs.lab1_fsdp_advanced.corpus import write_corpus
    from labs.lab1_fsdp_advanced.model import Shape
    from labs.lab1_fsdp_advanced.worker import Spec

    require(
        config.global_batch % (run.procs * config.accumulation) == 0,
        "global_batch",
        config.global_batch,
        f"must be a multiple of {run.procs} rank(s) x accumulation = {config.accumulation}",
    )
    docstrings = load("docstrings")
    run.data(docstrings)
    texts = docstrings.table("docstrings")["text"].sample(frac=1, random_state=run.seed).tolist()
    held_out = int(len(texts) * VALIDATION_SHARE)
    train, validation = run.work / "train.bin", run.work / "validation.bin"
    run.metric("corpus.bytes", write_corpus(texts[held_out:], train), unit="bytes")
    write_corpus(texts[:held_out], validation)
    return Spec(
        strategies=config.strategies,
        shape=Shape(config.width, config.layers, config.heads, config.context),
        global_batch=config.global_batch,
        accumulation=config.accumulation,
        steps=config.steps,
        learning_rate=config.learning_rate,
        max_norm=config.max_norm,
        precision=config.precision,
        device=run.device,
        seed=run.seed,
        train=str(train),
        validation=str(validation),
        checkpoints=str(run.work / "checkpoints"),
        output=str(run.work / "trained.json"),
    )


def launch(run: Run, spec: Spec, *, procs: int) -> dict[str, Any]:
    """Run a job on ``procs`` ranks, show how far it is, and read what rank 0 wrote."""
    import json
    from pathlib import Path

    from common.launch import torchrun
    from labs.lab1_fsdp_advanced.worker import PROGRESS

    steps = spec.steps - spec.steps // 2 if spec.resume else spec.steps
    with run.progress_bar(f"{procs} rank(s)", len(spec.strategies) * steps) as bar:
        done = 0

        def on_line(line: str) -> None:
            nonlocal done
            if line.startswith(PROGRESS):
                done += 1
                bar.update(done)

        torchrun(
            WORKER,
            [str(spec.write(run.work / "spec.json"))],
            procs=procs,
            device=run.device,
            log=run.dir / "ranks.log",
            on_line=on_line,
        )
    results: dict[str, Any] = json.loads(Path(spec.output).read_text(encoding="utf-8"))
    return results


def report(run: Run, trained: dict[str, Any], config: Config) -> None:
    """Loss, speed and memory of each strategy, and the two claims about what was trained."""
    tokens = config.global_batch * config.context
    for name, result in trained["strategies"].items():
        area = name.lower()
        run.metric(f"{area}.first_loss", result["losses"][0], unit="nats/byte", n=tokens)
        run.metric(
            f"{area}.validation_loss",
            result["validation_loss"],
            unit="nats/byte",
            how=f"held-out docstrings, after {config.steps} steps",
        )
        run.metric(
            f"{area}.tokens_per_second",
            result["tokens_per_second"],
            unit="1/s",
            n=result["timed_steps"],
            how="global batch / median time of a step, all ranks together",
        )
        counted, expected = result["bytes"], result["predicted_bytes"]
        for what in ("parameters", "gradients", "optimizer"):
            run.metric(
                f"{area}.{what}_bytes",
                counted[what],
                unit="bytes",
                how=f"largest rank's local tensors; the formula says {expected[what]}",
            )
        run.metric(
            f"{area}.after_forward_bytes",
            counted["after_forward"],
            unit="bytes",
            how="parameters on the largest rank between forward and backward pass",
        )
    some = next(iter(trained["strategies"].values()))
    run.metric("lab1.parameters", some["parameters"], unit="parameters")
    run.metric("lab1.ranks", trained["world"], unit="ranks")
    run.metric(
        "lab1.gradient_difference",
        max(trained["differences"].values()),
        unit="absolute",
        n=len(trained["differences"]),
        how="largest over strategies and weights; small fp32 model, same global batch",
    )
    if trained["world"] < 2:
        run.unmeasured("L1.billion", "this run had one rank; the claim is about more than one")
        run.unmeasured("L1.equivalence", "this run had one rank: there is nothing to compare")
    elif some["parameters"] < BILLION:
        run.unmeasured(
            "L1.billion",
            f"the model of this run has {some['parameters']:,} parameters; --scale full trains one "
            "of 1.06 billion",
        )


def resume(run: Run, spec: Spec, trained: dict[str, Any], config: Config) -> None:
    """Go on from the middle on one rank, and compare with the ranks that never stopped."""
    from dataclasses import replace

    if config.precision != "fp32":
        run.unmeasured(
            "L1.resume",
            "this run computes in bf16, where another number of ranks rounds differently by more "
            "than 1e-5; --precision fp32 measures it",
        )
        return
    strategy = "FULL_SHARD" if "FULL_SHARD" in spec.strategies else spec.strategies[-1]
    alone = replace(
        spec, strategies=(strategy,), resume=True, output=str(run.work / "resumed.json")
    )
    resumed = launch(run, alone, procs=1)["strategies"][strategy]
    expected = trained["strategies"][strategy]["losses"][resumed["resumed_at"] :]
    run.metric(
        "lab1.resume_loss_difference",
        max(abs(a - b) for a, b in zip(resumed["losses"], expected, strict=True)),
        unit="nats/byte",
        n=len(expected),
        how=f"largest over the steps after step {resumed['resumed_at']}: {strategy} on "
        f"{trained['world']} rank(s) against its checkpoint resumed on 1",
    )
    trained["resumed"] = {"first": resumed["resumed_at"], "losses": resumed["losses"]}
    if trained["world"] == 1:
        run.unmeasured("L1.resume", "this run trained on one rank too; --procs 2 measures it")


def draw(run: Run, trained: dict[str, Any]) -> None:
    """Loss curves that lie on each other, and the memory that does not."""
    from matplotlib.figure import Figure

    results = trained["strategies"]
    figure = Figure(figsize=(10, 4))
    loss, memory = figure.subplots(1, 2)
    for width, (name, result) in zip((7, 5, 3, 1), results.items()):
        loss.plot(
            range(1, len(result["losses"]) + 1), result["losses"], linewidth=width, label=name
        )
    if "resumed" in trained:
        first, losses = trained["resumed"]["first"], trained["resumed"]["losses"]
        steps = range(first + 1, first + 1 + len(losses))
        loss.plot(steps, losses, "k.", markersize=4, label="resumed on 1 rank")
    loss.set_xlabel("step")
    loss.set_ylabel("training loss (nats/byte)")
    loss.legend(fontsize=8)
    below = [0.0] * len(results)
    for what in ("parameters", "gradients", "optimizer"):
        heights = [result["bytes"][what] / 2**20 for result in results.values()]
        memory.bar(list(results), heights, bottom=below, label=what)
        below = [low + height for low, height in zip(below, heights)]
    held = [result["bytes"]["after_forward"] / 2**20 for result in results.values()]
    memory.plot(list(results), held, "kx", label="parameters after a forward pass")
    memory.set_ylabel(f"MiB a rank, {trained['world']} rank(s)")
    memory.tick_params(axis="x", labelsize=7)
    memory.set_ylim(top=1.45 * max(below))  # room for the legend above the bars
    memory.legend(fontsize=8, loc="upper left", ncols=2)
    run.figure(
        "strategies",
        figure,
        caption="Left: every strategy computes the same training, so the curves coincide, and the "
        "run resumed on one rank stays on them. Right: what a rank holds between steps.",
    )


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
