"""The peak of a step by formula: activations and the moments of the backward pass.

Activations: Korthikanti et al. (2022), "Reducing Activation Recomputation in Large Transformer
Models", arXiv 2205.05198, section 4.1, adapted to this lab's block. The moments are those of FSDP2:
which groups are gathered, which gradients wait, which buffers an exchange needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from labs.lab1_fsdp_advanced.activation_checkpointing import Mode
from labs.lab1_fsdp_advanced.memory import (
    FREED_BETWEEN_PASSES,
    MASTER,
    Held,
    Moment,
    predicted,
    ranks_that_share,
)
from labs.lab1_fsdp_advanced.model import Shape
from labs.lab1_fsdp_advanced.precision import Precision
from labs.lab1_fsdp_advanced.sharding import Strategy


@dataclass(frozen=True)
class Peak:
    """The moment of a step at which a rank holds the most, and what it holds."""

    moment: str
    held: Held


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch on one rank.

    Attributes
    ----------
    kept
        By each block, from its forward pass to its backward pass.
    working
        For the one block that is in its backward pass, recomputation included.
    outside
        Around the blocks: token numbers, last norm, input of the head.
    loss
        Logits and their gradient, in fp32, while the loss is computed backwards.
    """

    kept: int
    working: int
    outside: int
    loss: int


def activation_bytes(
    shape: Shape,
    tokens: int,
    *,
    compute_bytes: int,
    checkpointing: Mode,
    fused_norm: bool = True,
    compiled: bool = False,
    float8: bool = False,
) -> Activations:
    """What a micro-batch of ``tokens`` keeps of the forward pass for the backward pass.

    A token of a block of width d, with k for keys, k for values, and h inside the MLP, keeps

        none       c (7 d + 2 k + 4 h)     inputs of both norms, of queries/keys/values and of
                   + 4 heads + 8           gate/up (4 d); queries, keys, values (d + 2 k); output
                                           of attention by head and by token (2 d); gate, silu,
                                           up, product (4 h)
        selective  c (4 d + k + h)         the block's input; queries, values, output of
                   + 4 heads               attention, gate, output of the MLP
        full       c d                     the block's input

    where 4 heads are the sums of the softmax, in fp32, and 8 the scales of the two norms. Flash
    attention keeps no context x context scores: the term 5 a s / h of Korthikanti et al. (equation
    1) is gone, and the bytes are proportional to the tokens. The logits count 12 bytes for each
    token and word of the vocabulary: log-probabilities, their gradient, and that of the logits.

    A *compiled* block keeps what the products, the norms and attention of its backward pass read
    from memory. What only elementwise operations read is computed again inside of them, because
    a pass over memory costs more than the arithmetic: torch's min-cut partitioner decides it.

        none       c (7 d + 2 k + 3 h)     silu(gate) is gone: only a multiplication reads it
                   + 4 heads + 8
        in fp8     c (4 d + 2 k + 2 h)     inputs of the products too: what the products read are
                   + d + 4 heads + 8       their roundings, elementwise; that of attention's output
                                           is kept as it is, 1 byte each
        selective  c (3 d + k + h)         without the output of the MLP, which no gradient needs
                   + 4 heads
        full       c d

    Not counted: before torch 2.12, ``full`` in fp8 keeps what six products give, too,
    c (2 d + 2 k + 2 h), because a compiled block does not recompute a custom autograd function.
    16 windows of 2,048 of the 1.3B model are 25.6 GiB more (measured with 2.11).

    Parameters
    ----------
    tokens
        Windows of a micro-batch x context.
    compute_bytes
        c: 2 in bf16 and fp16, 4 in fp32.
    fused_norm
        A GPU computes a norm in one kernel, which keeps its input. A CPU takes it apart and keeps
        the input and the scaled input in fp32: 8 d in place of c d for each norm. A compiled block
        has fused norms everywhere.
    compiled
        Whether blocks are compiled; what lies outside of them is not.
    float8
        Whether their products run in fp8. An eager product keeps its inputs as they were.
    """
    d, k, h, c = shape.width, shape.key_value_width, shape.mlp_width, compute_bytes
    norm = (c * d if fused_norm else 8 * d) + 4
    softmax = 4 * shape.heads
    if compiled:
        everything = c * (7 * d + 2 * k + 3 * h) + softmax + 8
        rounded = c * (4 * d + 2 * k + 2 * h) + d + softmax + 8
        none, selective = rounded if float8 else everything, c * (3 * d + k + h) + softmax
    else:
        everything = none = 2 * norm + c * (5 * d + 2 * k + 4 * h) + softmax
        selective = c * (4 * d + k + h) + softmax
    kept = {"none": none, "selective": selective, "full": c * d}[checkpointing]
    # In the MLP's backward pass: gradients of product, gate and up, less the product itself.
    working = everything + c * (2 * h + 2 * d)
    outside = norm + c * d + 24
    loss = 12 * shape.vocabulary
    return Activations(tokens * kept, tokens * working, tokens * outside, tokens * loss)


def moments(
    shape: Shape,
    activations: Activations,
    strategy: Strategy,
    *,
    sharing: int,
    accumulated: bool = False,
) -> dict[str, Moment]:
    """The moments at which a step may hold the most, in order.

    What is kept falls and what is exchanged grows from block to block of the backward pass, by the
    same amount each time: the most is held at one of its ends.

    ``forward``: the last block; the buffers of its all-gather and of the one before.
    ``loss``: all activations, and the logits. ``first block`` of the backward pass: the next block
    is being gathered, and the head's gradient waits for the root's exchange.
    ``first exchange``: that block's gradient, as autograd made it, and in the exchange.
    ``last block``: the exchange of the block before it. ``root``: embedding and head, all else
    is done.
    """
    block, blocks = shape.block_parameters, shape.layers
    root = shape.parameters - blocks * block
    head = shape.vocabulary * shape.width
    # Nothing is gathered by a rank that shares with nobody, and no block follows the only one.
    others = min(2, blocks) - 1
    buffer = block if sharing > 1 else 0
    again = others * buffer if strategy in FREED_BETWEEN_PASSES else 0
    stays_gathered = accumulated and strategy is Strategy.ZERO_1
    kept = blocks * activations.kept
    first = Moment(
        working=root + block,
        gathering=again,
        pending=head + block,
        accumulated=accumulated,
        activations=kept - activations.kept + activations.working,
    )
    return {
        "forward": Moment(
            working=root + block,
            gathering=0 if stays_gathered else (1 + others) * buffer,
            accumulated=accumulated,
            activations=kept,
        ),
        "loss": Moment(
            working=root,
            accumulated=accumulated,
            activations=kept + activations.outside + activations.loss,
        ),
        "first block": first,
        "first exchange": replace(
            first,
            working=root,
            reduced=block,
            exchanging=block,
            activations=kept - activations.kept,
        ),
        "last block": replace(
            first,
            reduced=(blocks - 1) * block,
            exchanging=others * block,
            activations=activations.working,
        ),
        "root": Moment(
            reduced=shape.parameters, pending=root, exchanging=root, accumulated=accumulated
        ),
    }


def compute_bytes_of(precision: Precision) -> int:
    """Bytes of a weight while it computes; fp8 gathers bf16 and casts for each product."""
    return MASTER if precision.param_dtype is None else precision.param_dtype.itemsize


def peak(
    shape: Shape,
    strategy: Strategy,
    *,
    world: int,
    micro_batch: int,
    precision: Precision,
    checkpointing: Mode = "none",
    local_world: int | None = None,
    context: int | None = None,
    micro_batches: int = 1,
    offload: bool = False,
    device: str = "cuda",
    states: int = 2,
    compiled: bool = False,
) -> Peak:
    """The moment of a step at which a rank holds the most, and what it holds then.

    Parameters
    ----------
    micro_batch
        Windows that a rank computes at once.
    local_world
        Ranks of a node; None: all on one.
    context
        Tokens of a window; None: ``shape.context``.
    micro_batches
        Before the ranks exchange gradients. Two hold as much as any larger number.
    offload
        The device's part of it: shards, their gradients and the optimizer are in the memory of the
        host, ``predicted(...)`` bytes of it. NO_SHARD has no shards and ignores it.
    device
        ``"cuda"`` or ``"cpu"``, which computes norms in parts.
    compiled
        Whether each block is compiled, as ``parallelize`` does it.

    Notes
    -----
    Tensors only. A process has its interpreter and libraries as well, a GPU the CUDA context and
    NCCL's buffers (0.5 to 1.5 GiB), and an allocator that cuts memory into pieces loses some of it.
    What fp8's roundings pass through, a copy of one tensor in fp32 or two, is left out: it counts
    at ``first block`` only, where the logits are small.
    """
    compute_bytes = compute_bytes_of(precision)
    ranks = (world, world if local_world is None else local_world)
    activations = activation_bytes(
        shape,
        micro_batch * (context or shape.context),
        compute_bytes=compute_bytes,
        checkpointing=checkpointing,
        fused_norm=device == "cuda",
        compiled=compiled,
        float8=precision is Precision.FP8,
    )
    sharing = ranks_that_share(strategy, *ranks)
    steps = moments(shape, activations, strategy, sharing=sharing, accumulated=micro_batches > 1)
    candidates = [Peak("step", predicted(shape.parameters, strategy, *ranks, states=states))]
    for name, moment in steps.items():
        now = predicted(
            shape.parameters,
            strategy,
            *ranks,
            states=states,
            compute_bytes=compute_bytes,
            moment=moment,
        )
        candidates.append(Peak(name, now))
    if offload and strategy is not Strategy.NO_SHARD:
        candidates = [
            Peak(each.moment, on_device(each.held, steps.get(each.moment), sharing))
            for each in candidates
        ]
    return max(candidates, key=lambda each: each.held.total)


def on_device(held: Held, moment: Moment | None, sharing: int) -> Held:
    """What is left on the device when shards, their gradients and the optimizer are elsewhere."""
    shards = held.gradients if moment is None else MASTER * moment.reduced // sharing
    return replace(held, parameters=0, gradients=held.gradients - shards, optimizer=0)
