"""Every way to train a model, with its price: bytes of a rank, bytes sent, operations repeated.

Communication is counted as in ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 7), for what
FSDP2 gathers and reduces.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labs.lab1_fsdp_advanced.activation_checkpointing import Mode
    from labs.lab1_fsdp_advanced.memory import Held
    from labs.lab1_fsdp_advanced.model import Shape
    from labs.lab1_fsdp_advanced.precision import Precision
    from labs.lab1_fsdp_advanced.sharding import Strategy

MODES: tuple[Mode, ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class Setup:
    """What is to be trained, on what; all but ``ranks`` and ``local_ranks`` as in a ``Job``.

    Attributes
    ----------
    ranks, local_ranks
        All, and those of one node (None: all on one).
    micro_batch
        Windows that a rank computes at once.
    micro_batches
        Before the ranks exchange gradients.
    context
        Tokens of a window; None: ``shape.context``.
    compiled
        Whether blocks are compiled, which keeps less of the forward pass.
    """

    shape: Shape
    ranks: int
    micro_batch: int
    precision: Precision
    context: int | None = None
    micro_batches: int = 1
    device: str = "cuda"
    local_ranks: int | None = None
    compiled: bool = False

    @property
    def local(self) -> int:
        return self.local_ranks or self.ranks


@dataclass(frozen=True)
class Candidate:
    """One way to train, and its price.

    Attributes
    ----------
    strategy, checkpointing, offload
        As in ``Parallelism``.
    peak
        Bytes of ONE rank when it holds the most. ``peak.total`` is their sum.
    communicated
        Bytes a step between the ranks, as ZeRO counts them: the size of every tensor that is
        gathered or reduced, twice for an all-reduce.
    recomputed
        Operations that checkpointing repeats, as a share of those that the model needs.
    """

    strategy: Strategy
    checkpointing: Mode
    offload: bool
    peak: Held
    communicated: int
    recomputed: float

    @property
    def name(self) -> str:
        parts = [str(self.strategy)]
        parts += [] if self.checkpointing == "none" else [f"checkpointing {self.checkpointing}"]
        return ", ".join(parts + ["offload"] * self.offload)


def candidates(setup: Setup, *, offload: bool = False) -> list[Candidate]:
    """Every strategy with every kind of checkpointing; with ``offload`` also what that adds."""
    from labs.lab1_fsdp_advanced.sharding import Strategy

    ways = product(Strategy, MODES, (False, True) if offload else (False,))
    # NO_SHARD has no shards to offload.
    return [candidate(setup, *way) for way in ways if not (way[2] and way[0] == "NO_SHARD")]


def candidate(setup: Setup, strategy: Strategy, mode: Mode, offload: bool = False) -> Candidate:
    """One way to train ``setup``."""
    from labs.lab1_fsdp_advanced.peak_memory import peak
    from labs.lab1_fsdp_advanced.throughput import (
        hardware_flops_per_token,
        model_flops_per_token,
    )

    context = setup.context or setup.shape.context
    most = peak(
        setup.shape,
        strategy,
        world=setup.ranks,
        local_world=setup.local,
        micro_batch=setup.micro_batch,
        micro_batches=setup.micro_batches,
        precision=setup.precision,
        checkpointing=mode,
        context=context,
        # On a CPU, what is offloaded lies in the same memory as before.
        offload=offload and setup.device == "cuda",
        device=setup.device,
        compiled=setup.compiled,
    )
    needed = model_flops_per_token(setup.shape, context)
    return Candidate(
        strategy,
        mode,
        offload,
        most.held,
        communicated(setup, strategy),
        hardware_flops_per_token(setup.shape, context, mode) / needed - 1,
    )


def communicated(setup: Setup, strategy: Strategy) -> int:
    """Bytes of the tensors that a rank gathers and reduces in a step.

    P parameters of which B are in blocks, c bytes of a weight while it computes, N ranks that
    share a replica, m micro-batches:

    =============  =================  ==================================
    strategy       weights, gathered  gradients, in fp32
    =============  =================  ==================================
    NO_SHARD                          8 P (all-reduce)
    ZERO_1         c P                4 P (reduce-scatter)
    SHARD_GRAD_OP  c P m              4 P
    FULL_SHARD     c (P + B) m        4 P
    HYBRID_SHARD   c (P + B) m        4 P, and 8 P / N between the groups
    =============  =================  ==================================

    Under FULL_SHARD blocks are gathered for each pass, embedding and head once for both. Gradients
    are exchanged once a step. A single rank sends nothing, and a group of one gathers nothing.

    All links count alike. Between nodes they are slower by a factor of about ten, and only
    HYBRID_SHARD keeps the gathers off them.
    """
    from labs.lab1_fsdp_advanced.memory import MASTER, ranks_that_share
    from labs.lab1_fsdp_advanced.peak_memory import compute_bytes_of
    from labs.lab1_fsdp_advanced.sharding import Strategy

    shape, gathered = setup.shape, compute_bytes_of(setup.precision)
    total = shape.parameters
    sharing = ranks_that_share(strategy, setup.ranks, setup.local)
    sent = 0
    if sharing > 1:
        again = shape.layers * shape.block_parameters
        times = {
            Strategy.ZERO_1: total,
            Strategy.SHARD_GRAD_OP: total * setup.micro_batches,
        }.get(strategy, (total + again) * setup.micro_batches)
        sent += gathered * times + MASTER * total
    if setup.ranks > sharing:
        sent += 2 * MASTER * total // sharing
    return sent
