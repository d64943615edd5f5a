"""Where every byte of a rank goes: predicted by formula, counted in its tensors, measured.

====================  ==============================  ==========================================
part                  bytes a rank                    held
====================  ==============================  ==========================================
weights, fp32         4 P / N                         always
gradients, fp32       4 P / N                         from the backward pass to the step
Adam's two moments    8 P / N                         always, after the first step
gathered weights      c W                             while they compute
whole gradients       c W, and 4 W in the exchange    until the ranks have exchanged them
                      4 P                             from the first micro-batch to the exchange,
                                                      when micro-batches are not exchanged
activations           ``peak_memory`` has a formula   from the forward to the backward pass
====================  ==============================  ==========================================

P parameters, N ranks that share them (1 for NO_SHARD), c bytes of a weight while it computes (2 in
bf16), W parameters whole at that moment: the blocks at work under FULL_SHARD, all otherwise.

ZeRO: Rajbhandari et al. (2020), arXiv 1910.02054, sections 3 and 5.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

from common.exercises import exercise
from labs.lab1_fsdp_advanced.sharding import Strategy, hybrid_shape

MASTER = 4
"""Bytes of a weight, a summed gradient or a moment: fp32, whatever the model computes in."""
FREED_BETWEEN_PASSES = (Strategy.FULL_SHARD, Strategy.HYBRID_SHARD)
"""Strategies that free a block's weights after its forward pass and gather them a second time."""
RECORDED_STEPS = 3


@dataclass(frozen=True)
class Held:
    """Bytes of one rank at one moment, by purpose.

    Attributes
    ----------
    parameters
        This rank's part of the weights, fp32.
    gradients
        What waits for the optimizer or for an exchange: shards, and whole ones.
    optimizer
        Its moments.
    unsharded
        Weights gathered to compute, and buffers of an exchange.
    activations
        What the forward pass keeps for the backward pass, and what that pass works with.
    """

    parameters: int
    gradients: int
    optimizer: int
    unsharded: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.unsharded + self.activations


@dataclass(frozen=True)
class Moment:
    """How far a backward pass has come. All but ``activations`` are numbers of parameters.

    Attributes
    ----------
    working
        Of the communication groups that compute now.
    gathering
        Of the groups in the buffer of an all-gather: the next to compute, or just copied out.
    reduced
        Of the groups that are done: their gradients are exchanged, their weights are freed.
    pending
        Whose new gradient is there, whole, in the type that computes.
    exchanging
        Whose gradient is in the fp32 buffer of an exchange under way, whole.
    accumulated
        Whether earlier micro-batches were not exchanged: they leave a whole fp32 gradient of
        every parameter, until it is ``reduced``.
    activations
        Bytes.
    """

    working: int = 0
    gathering: int = 0
    reduced: int = 0
    pending: int = 0
    exchanging: int = 0
    accumulated: bool = False
    activations: int = 0


def ranks_that_share(strategy: Strategy, world: int, local_world: int) -> int:
    """N: the ranks that one replica of the model is spread over."""
    if strategy is Strategy.NO_SHARD:
        return 1
    return hybrid_shape(world, local_world)[1] if strategy is Strategy.HYBRID_SHARD else world


@exercise(
    "1.5",
    points=10,
    title="Where every byte goes",
    hint="Go through the fields of Held one by one and ask for each: is it divided by N, and in "
    "which type is it kept? Which strategies free a block's weights between its forward and its "
    "backward pass? What happens to a gradient that is not exchanged?",
)
def predicted(
    parameters: int,
    strategy: Strategy,
    world: int,
    local_world: int,
    *,
    states: int = 2,
    compute_bytes: int = 4,
    moment: Moment | None = None,
) -> Held:
    """Bytes that a rank holds between two steps, or at a moment of a backward pass.

    Weights, summed gradients and the optimizer's moments are fp32 (``MASTER`` = 4 bytes) for any
    ``compute_bytes``: bf16 and fp16 only change what is gathered. All three are divided by the
    N ranks that share a replica; in ZeRO-1 and 2 too, between steps.

    Parameters
    ----------
    parameters
        P, of the whole model. See :func:`padded_parameters` when ranks do not divide it.
    world, local_world
        All ranks, and those of one node. HYBRID_SHARD shares a replica over fewer ranks than the
        world: :func:`ranks_that_share` has N for each strategy.
    states
        Moments of the optimizer: Adam 2, SGD with momentum 1, plain SGD 0.
    compute_bytes
        c, of a gathered weight and of a gradient that autograd has just made: 4, or 2 in bf16.
    moment
        None: between two steps, the gradients of the last one still there. Nothing is whole.

    Returns
    -------
    Held
        With ``moment = m``, in integer bytes (divide last, rounding down):

        - ``parameters`` 4 P / N and ``optimizer`` 4 states P / N, as between steps;
        - ``gradients`` 4 m.reduced / N, and c m.pending; with ``m.accumulated`` also 4 bytes for
          each parameter that is not yet reduced;
        - ``unsharded`` c times the weights that are whole and m.gathering, and 4 m.exchanging.
          Under FULL_SHARD and HYBRID_SHARD those of ``m.working`` are whole, under the others all
          not yet reduced. So for NO_SHARD: FSDP2 computes with a copy of the weights even then;
        - ``activations`` as the moment says.

    Notes
    -----
    ZeRO (arXiv 1910.02054), section 3.1 and figure 1. Its 16 bytes a parameter are 2 (fp16 weights)
    + 2 (fp16 gradients) + 12 (fp32 weights and moments). FSDP2 has 16 as well, all in fp32, and
    the bf16 weights come on top while they are gathered.

    Examples
    --------
    >>> predicted(1_000_000, Strategy.FULL_SHARD, 8, 8)
    Held(parameters=500000, gradients=500000, optimizer=1000000, unsharded=0, activations=0)
    """
    sharing = ranks_that_share(strategy, world, local_world)
    shards = MASTER * parameters // sharing
    optimizer = states * MASTER * parameters // sharing
    if moment is None:
        return Held(shards, shards, optimizer)
    gradients = MASTER * moment.reduced // sharing + compute_bytes * moment.pending
    if moment.accumulated:
        gradients += MASTER * (parameters - moment.reduced)
    freed = strategy in FREED_BETWEEN_PASSES
    whole = moment.working if freed else parameters - moment.reduced
    unsharded = compute_bytes * (whole + moment.gathering) + MASTER * moment.exchanging
    return Held(shards, gradients, optimizer, unsharded, moment.activations)


def padded_parameters(parameters: Iterable[Tensor], sharing: int) -> int:
    """P for :func:`predicted` when the ranks do not divide every weight: N x the largest part.

    FSDP2 cuts along the first dimension. Of 10 rows, 4 ranks hold 3, 3, 3 and 1: the first ones
    hold a fifth more than P / N. Weights with fewer rows than ranks leave some with nothing.
    """
    rows_and_size = ((p.shape[0] if p.ndim else 1, p.numel()) for p in parameters)
    return sharing * sum(-(-rows // sharing) * (size // rows) for rows, size in rows_and_size)


def local_bytes(tensor: Tensor) -> int:
    """Bytes of the part of a tensor that this rank has."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.element_size()


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of parameters on this rank *now*: after a forward pass they may be whole."""
    return sum(local_bytes(parameter) for parameter in model.parameters())


def held(model: nn.Module, optimizer: Optimizer) -> Held:
    """Count the tensors of this rank between two steps; a collective in no way."""
    states = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.ndim > 0
    ]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return Held(
        parameter_bytes(model),
        sum(local_bytes(gradient) for gradient in gradients),
        sum(local_bytes(state) for state in states),
    )


def measured_peak(
    step: Callable[[], object], model: nn.Module, optimizer: Optimizer, device: torch.device | str
) -> int:
    """Most bytes of tensors on this rank while ``step`` runs, those held before it included.

    On a GPU, ``torch.cuda.max_memory_allocated``. On a CPU, what PyTorch's allocator records for
    the profiler, on top of :func:`held`; small models show as well. Call it after a first step, so
    that the optimizer has its state.

    Notes
    -----
    The profiler does not see what gloo's own threads release: a buffer of an exchange that one of
    them is the last to let go counts until the end of the step. Which thread is the last changes
    from step to step, and it can only add bytes: on several CPU ranks ``step`` runs three times,
    and the smallest of the three peaks is the answer.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    steps = RECORDED_STEPS if dist.is_initialized() and dist.get_world_size() > 1 else 1
    return min(_recorded_peak(step, model, optimizer) for _ in range(steps))


def _recorded_peak(step: Callable[[], object], model: nn.Module, optimizer: Optimizer) -> int:
    before = held(model, optimizer).total
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    assert recorded.profiler is not None
    events = recorded.profiler.kineto_results.events()
    changes = [(each.start_ns(), each.nbytes()) for each in events if each.name() == "[memory]"]
    now = most = 0
    for _, change in sorted(changes, key=lambda each: each[0]):
        now += change
        most = max(most, now)
    return before + most


def resident_peak() -> int:
    """Most bytes of this process in memory so far, interpreter and libraries included.

    Linux counts pages, and an allocator returns them late: use it for models of gigabytes, where
    the 0.4 GiB of a process that has only imported torch do not matter. Not ``ru_maxrss`` where
    there is ``VmHWM``: it begins with the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
