"""Silent failures between a trained model and what people get, for :mod:`capstone.traps`."""

from __future__ import annotations

from common.traps import Trap


def downsampled_heads_in_a_value() -> Trap:
    """Simulated: a click head that kept 10 % of its negatives, a hide head 1 %, and their value."""
    import numpy as np
    from scipy.special import expit

    from capstone.downsampling import corrected

    rng = np.random.default_rng(0)
    lists, items, hide_weight = 4000, 50, -4.0
    appeal = rng.normal(size=(lists, items))
    noise = rng.normal(size=(lists, items))
    truth = {
        "click": expit(-3 + appeal),
        "hide": expit(-5 + 0.8 * appeal + 0.6 * noise),  # what attracts also annoys
    }
    shares = {"click": 0.1, "hide": 0.01}
    learnt = {head: p / (p + shares[head] * (1 - p)) for head, p in truth.items()}

    def worth(p: dict[str, np.ndarray]) -> np.ndarray:
        return p["click"] + hide_weight * p["hide"]

    def shown(p: dict[str, np.ndarray]) -> float:
        best = worth(p).argmax(axis=1)[:, None]
        return float(np.take_along_axis(worth(truth), best, axis=1).mean())

    right = {head: corrected(p, shares[head]) for head, p in learnt.items()}
    factor = (learnt["hide"] / truth["hide"]).mean() / (learnt["click"] / truth["click"]).mean()
    return Trap(
        "A weighted sum of probabilities from downsampled data",
        wrong=("true value of the item shown, heads as trained", round(shown(learnt), 4)),
        right=("the same, each head corrected by p r / (1 - p + r p)", round(shown(right), 4)),
        why=(
            "Each head ranks well on its own, and AUC does not move by the correction. But leaving "
            "out negatives raises a rare head more than a frequent one: here the hide head is too "
            f"high by {factor:.0f} times what the click head is, so a weight of {hide_weight:g} "
            f"acts like {hide_weight * factor:.0f}. The value is a product decision about "
            "probabilities; correct them before it is taken."
        ),
    )


def position_left_in_at_serving() -> Trap:
    """Simulated log with position bias; one logistic regression, served in two ways."""
    import numpy as np
    from scipy.special import expit
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    items, shows, places = 2000, 60, 10
    features = rng.normal(size=(items, 6))
    quality = features @ np.array([0.6, 0.4, 0.3, 0.2, 0.2, 0.1])
    usual = np.clip(rng.normal(4.5, 3.0, items), 0, 9)  # where the old system put it: its own taste
    position = np.clip(np.rint(usual[:, None] + rng.normal(0, 1, (items, shows))), 0, 9).astype(int)
    seen = 1 / np.log2(position + 2.0)
    clicked = rng.random((items, shows)) < seen * expit(quality[:, None] - 1.5)
    rows = np.column_stack([np.repeat(features, shows, axis=0), np.eye(places)[position.ravel()]])
    model = LogisticRegression(C=10.0, max_iter=200).fit(rows, clicked.ravel())

    def served(place: np.ndarray) -> float:
        score = model.decision_function(np.column_stack([features, np.eye(places)[place]]))
        best = set(np.argsort(-quality)[: items // 10].tolist())
        return len(best & set(np.argsort(-score)[: items // 10].tolist())) / len(best)

    yesterday = position[:, -1]
    shares = [served(place) for place in (yesterday, np.zeros(items, dtype=int))]
    return Trap(
        "The position feature left in when serving",
        wrong=("best 10 % of items found, served with yesterday's position", f"{shares[0]:.0%}"),
        right=("found when every item is scored at the top", f"{shares[1]:.0%}"),
        why=(
            "In training the position explains clicks that the item did not earn: good. If the "
            "served request carries yesterday's position, that explanation becomes a bonus: what "
            "was on top gets the clicks, and so stays on top. The loss, the AUC on the log and the "
            "calibration on the log are all *better* with it. Serve with one constant position "
            "(target_ranker.Requests.at_the_top)."
        ),
    )


def acknowledged_before_fsync() -> Trap:
    """A process that takes reactions is killed with kill -9; some were answered too early."""
    import subprocess
    import sys
    import tempfile
    from pathlib import Path

    from capstone.event_tables import read_reactions

    program = """
import asyncio, sys, orjson
from pathlib import Path
from capstone.event_log import EventLog

async def main():
    log = EventLog(Path(sys.argv[1]))
    event = {"request_id": "r", "user_id": 1, "item_id": 1, "reaction": "like", "at": 0}
    for i in range(10**6):
        for j in range(10):
            name = f"early-{i}-{j}"
            log._reactions.append_soon(orjson.dumps(event | {"event_id": name}))  # in memory
            print(name, flush=True)                                               # and answered
        await asyncio.sleep(0.06)
        await log.react(event | {"event_id": f"durable-{i}"})  # returns after the fsync
        print(f"durable-{i}", flush=True)

asyncio.run(main())
"""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="trap-") as folder:
        child = subprocess.Popen(
            [sys.executable, "-c", program, folder], cwd=root, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        answered = []
        for line in child.stdout:
            answered.append(line.strip())
            # Killed while an early answer is out and its record is not yet.
            if len(answered) >= 40 and answered[-1].endswith("-9"):
                break
        child.kill()
        answered += child.stdout.read().split("\n")[:-1]
        child.wait()
        kept = {row["event_id"] for row in read_reactions(Path(folder), newest=10**6)}
    lost = {kind: sum(name.startswith(kind) and name not in kept for name in answered)
            for kind in ("early", "durable")}  # fmt: skip
    return Trap(
        "Acknowledged before it is on disk, an event can be lost and nobody will send it again",
        wrong=("reactions lost by kill -9 that were answered when queued", str(lost["early"])),
        right=("lost of those that were answered after the fsync", str(lost["durable"])),
        why=(
            "The client deletes what is acknowledged, so an acknowledgement is a promise about the "
            "disk. A buffer in the process dies with it; what was written and not synced dies with "
            "the machine. The price of waiting is one fsync, and those who wait at the same time "
            "share it: GroupCommitLog writes a whole batch with one."
        ),
    )
