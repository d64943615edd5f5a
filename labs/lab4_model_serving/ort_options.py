"""ONNX Runtime's session: options, devices without a silent fallback, and bound output buffers."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from common.errors import InputError, require

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": (
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ),
}
"""Device to execution providers, in order of preference. Each node goes to the first that has a
kernel for it, so the CPU stays in the list for what the accelerator lacks."""

LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "layout": ort.GraphOptimizationLevel.ORT_ENABLE_LAYOUT,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""Basic: constants folded, redundant nodes removed. Extended: fusions into operators of one
provider. Layout: data layouts of convolutions. All: every one."""


@dataclass(frozen=True)
class SessionSettings:
    """Options of a session, with the values a server with one worker a core wants."""

    device: str = "cpu"
    """``"cpu"``, ``"cuda"`` or ``"tensorrt"``."""
    device_id: int = 0
    """Which of the GPUs that this process sees; a CPU has no number."""
    optimization: str = "all"
    """A key of ``LEVELS``."""
    intra_threads: int = 1
    """Threads inside an operator; 0 takes one a core."""
    inter_threads: int = 1
    """Operators that may run at the same time; more than 1 switches to parallel execution."""
    spinning: bool = False
    """Idle threads wait in a busy loop: faster to wake, and a core burnt meanwhile."""
    memory_pattern: bool = True
    """Allocate a run's tensors as one block, planned from the first run of each input shape."""
    arena: bool = True
    """Keep freed memory for the next run, instead of returning it."""

    def __post_init__(self) -> None:
        require(self.device in PROVIDERS, "device", self.device, f"must be one of {_or(PROVIDERS)}")
        require(
            self.optimization in LEVELS,
            "optimization",
            self.optimization,
            f"must be one of {_or(LEVELS)}",
        )
        require(self.device_id >= 0, "device_id", self.device_id, "must be >= 0")
        require(self.intra_threads >= 0, "intra_threads", self.intra_threads, "must be >= 0")
        require(self.inter_threads >= 1, "inter_threads", self.inter_threads, "must be >= 1")


def _or(names: Mapping[str, object]) -> str:
    return " or ".join(repr(name) for name in names)


def choose_providers(device: str, available: Sequence[str]) -> list[str]:
    """The execution providers of a device; all of them, or an error.

    Parameters
    ----------
    device
        A key of ``PROVIDERS``.
    available
        What this ONNX Runtime was built with: ``ort.get_available_providers()``.

    Raises
    ------
    InputError
        The device is unknown, or its provider is not built in. Handed such a list, ONNX Runtime
        itself warns, and runs on the CPU.
    """
    require(device in PROVIDERS, "device", device, f"must be one of {_or(PROVIDERS)}")
    wanted = list(PROVIDERS[device])
    if wanted[0] not in available:
        raise InputError(
            f"device = {device!r} needs {wanted[0]}, but this onnxruntime has only "
            f"{list(available)}; install onnxruntime-gpu, or use device = 'cpu'"
        )
    return [name for name in wanted if name in available]


def session_options(settings: SessionSettings) -> ort.SessionOptions:
    """Settings as ONNX Runtime takes them."""
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[settings.optimization]
    options.intra_op_num_threads = settings.intra_threads
    options.inter_op_num_threads = settings.inter_threads
    if settings.inter_threads > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_mem_pattern = settings.memory_pattern and settings.inter_threads == 1
    options.enable_cpu_mem_arena = settings.arena
    for kind in ("intra_op", "inter_op"):
        options.add_session_config_entry(
            f"session.{kind}.allow_spinning", str(int(settings.spinning))
        )
    options.log_severity_level = 3
    return options


def open_session(
    path: Path,
    settings: SessionSettings | None = None,
    *,
    options: ort.SessionOptions | None = None,
) -> ort.InferenceSession:
    """Open an ONNX file on exactly the device that was asked for.

    Parameters
    ----------
    options
        Made from ``settings`` unless given, for what :class:`SessionSettings` does not name.

    Raises
    ------
    InputError
        The file is missing; the device's provider is not built in, or its libraries do not load.
    """
    settings = settings or SessionSettings()
    if not path.is_file():
        raise InputError(f"no ONNX model at {path}; export one first (export_onnx)")
    providers = choose_providers(settings.device, ort.get_available_providers())
    if settings.device != "cpu":
        load_cuda()
    opened = ort.InferenceSession(
        str(path),
        options or session_options(settings),
        providers=[
            name if name == "CPUExecutionProvider" else (name, {"device_id": settings.device_id})
            for name in providers
        ],
    )
    # Switches off the retry on other providers when a run fails.
    opened.disable_fallback()
    if opened.get_providers()[0] != providers[0]:
        raise InputError(
            f"device = {settings.device!r}, but {providers[0]} did not load (driver or libraries "
            f"missing) and the session has {opened.get_providers()}; see the messages above, or "
            "use device = 'cpu'"
        )
    return opened


def load_cuda() -> None:
    """CUDA and cuDNN of the packages that torch brings, before a session asks for them.

    ONNX Runtime looks for them beside itself. Where it is installed apart from them, as with
    ``pip install --target``, torch knows where its own are.
    """
    if not (Path(ort.__file__).parents[1] / "nvidia").is_dir() and find_spec("torch"):
        import torch  # noqa: F401
    ort.preload_dlls()


@dataclass(frozen=True)
class OptimizedGraph:
    """What ONNX Runtime makes of a file at one level when a session opens it."""

    level: str
    operators: dict[str, int]
    """Operator to how often it occurs."""

    @property
    def nodes(self) -> int:
        return sum(self.operators.values())


def optimized_graphs(path: Path) -> list[OptimizedGraph]:
    """The graph that really runs at each optimization level, in the order of ``LEVELS``.

    ONNX Runtime writes it to ``optimized_model_filepath``; the copies are thrown away.

    Raises
    ------
    InputError
        The file is missing.
    """
    import onnx

    found = []
    with tempfile.TemporaryDirectory(prefix="optimized-") as folder:
        for level in LEVELS:
            settings = SessionSettings(optimization=level)
            options = session_options(settings)
            written = Path(folder) / f"{level}.onnx"
            options.optimized_model_filepath = str(written)
            open_session(path, settings, options=options)
            counts = Counter(node.op_type for node in onnx.load(written).graph.node)
            found.append(OptimizedGraph(level, dict(counts.most_common())))
            written.unlink()
    return found


class BoundRunner:
    """Runs a session with its output bound to a buffer that is made once and used again.

    ``session.run`` allocates each output and copies it into a new numpy array. Here the output is
    written straight into a buffer that holds the largest batch. On a GPU this is also what keeps
    inputs and outputs from crossing the bus more than once.

    Parameters
    ----------
    session
        With one output of shape [batch, columns], columns constant, float32.
    max_rows
        The largest batch.

    Raises
    ------
    InputError
        The session has another kind of output, or ``max_rows`` < 1.

    Notes
    -----
    Not for several threads at once: they would share the buffer.
    """

    def __init__(self, session: ort.InferenceSession, *, max_rows: int) -> None:
        require(max_rows >= 1, "max_rows", max_rows, "must be >= 1")
        outputs = session.get_outputs()
        shape = outputs[0].shape
        fits = len(outputs) == 1 and len(shape) == 2 and isinstance(shape[1], int)
        if not fits or outputs[0].type != "tensor(float)":
            found = [(each.name, each.type, each.shape) for each in outputs]
            raise InputError(f"outputs = {found} must be one tensor(float) [batch, columns]")
        self.session = session
        self.max_rows = max_rows
        self._name = outputs[0].name
        self._buffer = np.empty((max_rows, shape[1]), np.float32)
        self._binding = session.io_binding()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Logits [n, columns]: a view of the buffer, **valid until the next run**.

        Raises
        ------
        InputError
            More rows than ``max_rows``.
        """
        rows = len(next(iter(inputs.values())))
        require(rows <= self.max_rows, "rows", rows, f"must be <= max_rows = {self.max_rows}")
        view = self._buffer[:rows]
        binding = self._binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        kept = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in kept.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output(self._name, "cpu", 0, np.float32, view.shape, view.ctypes.data)
        self.session.run_with_iobinding(binding)
        return view
