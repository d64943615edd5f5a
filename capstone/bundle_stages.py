"""The stages that make a version of the feed: index, re-ranking, bundle, registry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from capstone import bundle, measure
from capstone.context import BUNDLES, Context
from capstone.data import SPLIT_SHA256
from capstone.gates import Promotion, read_promotion, read_verdict, write_promotion
from capstone.model_stages import TEST_CANDIDATES, VALIDATION_CANDIDATES
from capstone.names import slug
from capstone.release import GROUPS, REGISTERED, REGISTRY, STORE, USERS, keep
from capstone.reranking import RerankConfig
from capstone.reranking_study import Scored, lists_of
from common.results import write_json

RERANK, CATALOGUE = "rerank.json", bundle.PARTS["catalogue"]
EXPLORED = 1
"""Slots of a served feed that are drawn at random, so that other rankings can be judged."""
GATE = "fairness_gate.json"


def index(c: Context) -> None:
    """The item embeddings as a FAISS index (lab 2), versioned with the checkpoint."""
    from capstone import retrieval_index
    from labs.lab2_vector_db.evaluation import exact_search, recall_at_k
    from labs.lab2_vector_db.measuring import read_bandwidth
    from labs.lab2_vector_db.search import search

    trained = c.workspace.need("train")
    encoder = c.encoder(trained)
    vectors = encoder.items.weight.detach().numpy().astype(np.float32)
    version = bundle.sha256(trained / "encoder.safetensors")
    with c.workspace.stage("index", "train") as folder:
        retrieval_index.build(vectors, folder / "index", version, seed=c.run.seed)
        np.save(folder / "vectors.npy", vectors)
        opened = retrieval_index.open_index(folder / "index", version)
        queries = measure.queries(encoder, c.feed.test_history, c.config.max_length)
        _, found = search(opened, queries, 10)
        _, exact = exact_search(vectors[1:], queries, 10, "inner_product")
        recall = recall_at_k(found, np.arange(1, len(vectors))[exact])
        c.run.metric("index.recall_at_10", recall.mean(), unit="ratio", n=len(recall))
        c.run.metric("index.vectors", opened.ntotal, unit="count")
        largest = retrieval_index.largest_exact(
            vectors.shape[1], budget_ms=5.0, bytes_per_s=read_bandwidth()
        )
        c.run.metric(
            "index.largest_exact", largest, unit="vectors",
            how="an exact scan of more takes over 5 ms at this machine's measured bandwidth",
        )  # fmt: skip


def rerank(c: Context) -> None:
    """Diversity and creator decay, chosen on validation; then what they cost on the test item."""
    from capstone import figures_reranking
    from capstone.reranking_study import study_reranking

    vectors = np.load(c.workspace.need("index") / "vectors.npy")
    validation, test = read_scored(c)
    with c.workspace.stage("rerank", "retrieval", "export", "index") as folder:
        study = study_reranking(
            validation, test, c.catalogue, vectors, c.feed.genres,
            k=10, n_boot=c.config.n_boot, seed=c.run.seed,
        )  # fmt: skip
        write_json(folder / RERANK, study.chosen.as_json())
    by_value, chosen = study.test
    for name, outcome in (("by_value", by_value), ("chosen", chosen)):
        for what in ("ndcg", "ild", "genre_ild", "top_creator", "creator_gini", "coverage"):
            c.run.metric(
                f"rerank.{name}.{what}", getattr(outcome, what),
                unit="ratio", n=c.feed.n_users,
                how="test item, first 10" + ("; simulated creators" if "creator" in what else ""),
            )  # fmt: skip
    c.run.metric(
        "rerank.ndcg_kept", chosen.kept, unit="ratio", n=c.feed.n_users,
        how="test item; chosen on validation to keep at least 99 % there",
    )  # fmt: skip
    c.run.figure(
        "reranking", figures_reranking.draw_reranking(study),
        caption="What diversity and creator decay cost in NDCG, on the validation item.",
    )  # fmt: skip


def fairness(c: Context) -> None:
    """User groups and simulated creators (lab 3), the mitigation and its price, the gate."""
    from capstone import fairness_gate, figures_fairness
    from capstone.fairness_audit import TARGET, audit, study_fairness

    folder = c.workspace.need("rerank")
    chosen = RerankConfig.from_json(json.loads((folder / RERANK).read_text(encoding="utf-8")))
    validation, test = read_scored(c)
    vectors = np.load(c.workspace.need("index") / "vectors.npy")
    with c.workspace.stage("fairness", "rerank") as made:
        study = study_fairness(
            validation, test, c.feed, c.catalogue, vectors, chosen,
            k=10, n_boot=c.config.n_boot, seed=c.run.seed,
        )  # fmt: skip
        policy = fairness_gate.read_policy()
        before, after = (fairness_gate.gate(each, policy) for each in (study.before, study.after))
        # The mitigation costs NDCG, so it is taken when it is needed; decided on validation.
        mitigated = study.tried[0].to_catalogue < TARGET
        served, verdict = (study.after, after) if mitigated else (study.before, before)
        config = study.config if mitigated else replace(study.config, min_exposure=0.0)
        write_json(made / RERANK, replace(config, exploration_slots=EXPLORED).as_json())
        c.catalogue.save(made / CATALOGUE)
        # The reference with the same re-ranking: it may become an arm, so it is judged as well.
        lists = lists_of(
            read_scored(c, "reference")[1], c.catalogue, vectors, config, k=10, seed=c.run.seed
        )
        other = audit(
            lists, c.feed, c.catalogue, config.protected_creators,
            n_boot=c.config.n_boot, seed=c.run.seed,
        )  # fmt: skip
        for name, said in (
            ("champion", verdict), ("reference", fairness_gate.gate(other, policy))
        ):  # fmt: skip
            of = bundle.served_parts(_parts(c, name, made), _facts(c, name, made))
            write_promotion(Promotion(said.promote, said.text, of), made / f"{name}.{GATE}")
        np.save(made / "ndcg.npy", served.ndcg)
    c.mean(
        "system.ndcg_at_10", served.ndcg,
        how=f"what is served: sources, student in {c.precision('champion')}, value, re-ranking, "
        "minimum exposure; full catalogue, without the exploration slot",
    )  # fmt: skip
    for name, gap in served.gaps.items():
        c.run.metric(
            f"fairness.ndcg_gap.{name}", gap.gap.difference,
            unit="ratio", n=len(served.ndcg), ci95=gap.gap.difference_ci95,
            how=f"mean NDCG@10, {gap.gap.highest} minus {gap.gap.lowest}, the largest gap: biased "
            "upward, the p-value says whether there is one",
        )  # fmt: skip
        c.run.metric(
            f"fairness.ndcg_gap_p.{name}", gap.p_adjusted,
            unit="probability", n=c.config.n_boot, how="permutation, adjusted for all attributes",
        )  # fmt: skip
        for group in gap.report.groups:
            c.run.metric(
                f"fairness.ndcg.{name}.{slug(str(group.group))}", group.value,
                unit="ratio", n=group.n, ci95=group.ci95,
            )  # fmt: skip
    for name, found in (("before", study.before.creators), ("after", study.after.creators)):
        for what in ("to_catalogue", "to_merit"):
            c.run.metric(
                f"fairness.small_creators.{what}.{name}", getattr(found, what),
                unit="ratio", n=found.n_users, ci95=getattr(found, f"{what}_ci95"),
                how="exposure of small simulated creators over their share; 1 is parity",
            )  # fmt: skip
    low = served.creators.to_catalogue_ci95[0]
    c.run.metric(
        "fairness.small_creators.low", low, unit="ratio", n=len(served.ndcg),
        how="low end of exposure over catalogue share, as served; simulated creators",
    )  # fmt: skip
    c.run.metric(
        "fairness.mitigation.ndcg_lost", study.ndcg_lost,
        unit="ratio", n=len(served.ndcg), ci95=study.ndcg_lost_ci95, how="paired bootstrap",
    )  # fmt: skip
    c.run.metric(
        "fairness.mitigation.exposure_gained", study.exposure_gained,
        unit="ratio", n=len(served.ndcg), ci95=study.exposure_gained_ci95,
    )  # fmt: skip
    c.run.metric("fairness.mitigated", int(mitigated), unit="flag")
    c.run.metric("fairness.blocked_before", int(not before.promote), unit="flag")
    c.run.metric("fairness.blocked", int(not verdict.promote), unit="flag")
    c.run.note("Fairness gate on what is served. " + "; ".join(verdict.text.splitlines()) + ".")
    c.run.figure(
        "fairness-users", figures_fairness.draw_user_groups(served),
        caption="NDCG@10 of the served feed by group of users, with 95 % intervals.",
    )  # fmt: skip
    c.run.figure(
        "fairness-creators", figures_fairness.draw_creator_exposure(study),
        caption="Exposure by audience of the (simulated) creator, before and after the minimum.",
    )  # fmt: skip


def read_scored(c: Context, name: str = "champion") -> tuple[Scored, Scored]:
    """A ranker's values of the validation and of the test candidates (export stage)."""
    retrieved = c.workspace.need("retrieval")
    with np.load(c.workspace.need("export") / f"{name}.values.npz") as stored:
        return (
            Scored(
                stored["validation"], np.load(retrieved / VALIDATION_CANDIDATES),
                c.feed.validation_items,
            ),
            Scored(stored["test"], np.load(retrieved / TEST_CANDIDATES), c.feed.test_items),
        )  # fmt: skip


def bundles(c: Context) -> None:
    """Champion (student) and reference (teacher in fp32), packed for TorchServe."""
    from capstone.fairness_audit import user_groups
    from capstone.monitor import write_groups
    from capstone.serving import archive_rankers

    exported, audited = c.workspace.need("export"), c.workspace.need("fairness")
    made_from = ("train", "retrieval", "export", "index", "fairness")
    with c.workspace.stage("bundle", *made_from) as folder:
        write_json(
            folder / USERS,
            {
                str(user + 1): [sequence.items.tolist(), sequence.ratings.tolist()]
                for user, sequence in enumerate(c.feed.test_history)
            },
        )
        # What the monitor compares live traffic with.
        groups = {name: np.asarray(each) for name, each in user_groups(c.feed).items()}
        write_groups(groups, np.arange(1, c.feed.n_users + 1), folder / GROUPS)
        made = []
        for name in BUNDLES:
            facts = _facts(c, name, audited)
            quality = exported / f"{name}.quality.json"
            judgements = {
                "quality": quality,
                "fairness": audited / f"{name}.{GATE}",
                "references": exported / f"{name}.references.json",
                "card": _write_card(folder / f"{name}.card.md", name, facts, quality),
            }
            parts = _parts(c, name, audited) | judgements
            made.append(bundle.assemble(folder / name, parts, facts))
        archive_rankers(made, folder / STORE)
        size = sum(path.stat().st_size for path in made[1].folder.rglob("*") if path.is_file())
        c.run.metric("bundle.size_mib", size / 2**20, unit="MiB")


def _parts(c: Context, name: str, audited: Path) -> dict[str, Path]:
    """The files that serve; the catalogue is where the fairness stage has written it."""
    indexed = c.workspace.need("index")
    return c.judged_parts(c.workspace.need("export"), name) | {
        "index": indexed / "index",
        "vectors": indexed / "vectors.npy",
        "catalogue": audited / CATALOGUE,
    }


def _facts(c: Context, name: str, audited: Path) -> bundle.Facts:
    """What a bundle is besides its files; re-ranking is what the fairness stage has chosen."""
    return bundle.Facts(
        checkpoint=bundle.sha256(c.workspace.need("train") / "encoder.safetensors"),
        max_length=c.config.max_length,
        candidates=c.config.candidates,
        split_sha256=SPLIT_SHA256,
        weights=c.weights(),
        rerank=json.loads((audited / RERANK).read_text(encoding="utf-8")),
        precision=c.precision(name),
    )


def _write_card(path: Path, name: str, facts: bundle.Facts, quality: Path) -> Path:
    """What goes with the bundle itself; the run's model card has what was measured of it live."""
    rows = [
        f"| {each.gate.name} | {each.value:.4g} | {each.gate.op} {each.gate.limit:g} | "
        f"{'passed' if each.passed else 'failed'} |"
        for each in read_verdict(quality).outcomes
    ]
    weights = ", ".join(f"{head} {weight:g}" for head, weight in facts.weights.as_json().items())
    lines = [
        f"# Feed ranker, {name}",
        "",
        "Orders films of MovieLens 100K for its users: an example of a course, not fit for",
        f"decisions about people. Split `{facts.split_sha256[:16]}`,",
        f"encoder `{facts.checkpoint[:16]}`.",
        f"The ranker computes in {facts.precision}.",
        f"The value's weights: {weights}. Creators are simulated.",
        "",
        "| gate | value | must be | |",
        "|---|---|---|---|",
        *rows,
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def register(c: Context) -> None:
    """The champion into the registry (MLflow), if every gate and the fairness gate let it."""
    from capstone import figures_ranking
    from capstone.registry import Registry

    made = c.bundle("champion")
    verdict, fairness_gate = read_verdict(made.quality), read_promotion(made.fairness)
    for each in verdict.outcomes:
        limit = f"must be {each.gate.op} {each.gate.limit:g}"
        of = " of the reference" if each.gate.relative else ""
        c.run.metric(
            f"gates.{slug(each.gate.name)}", each.value if np.isfinite(each.value) else None,
            unit="ratio", how=f"{each.gate.metric}{of}, {limit}",
            reason="" if np.isfinite(each.value) else "not finite",
        )  # fmt: skip
    c.run.figure(
        "gates", figures_ranking.draw_gates(verdict),
        caption="Each gate's value in units of its limit.",
    )  # fmt: skip
    c.run.metric("gates.failed", len(verdict.failed), unit="count", n=len(verdict.outcomes))
    passed = verdict.passed and fairness_gate.promote
    registry = Registry.at(c.workspace.folder / REGISTRY)
    if passed:
        kept = keep(made, c.workspace.need("bundle"), c.workspace.folder / REGISTERED)
        champion = registry.register(kept, passed=True, tags={"split": made.facts.split_sha256})
        registry.promote()
        c.run.note(f"Bundle {made.version} is version {champion.number} and champion.")
    else:
        why = ", ".join(verdict.failed) or "the fairness gate"
        c.run.note(f"Bundle {made.version} was not registered: {why}.")
    c.run.metric("registry.registered", int(passed), unit="flag")
    c.run.metric("registry.versions", len(registry.all()), unit="count")
