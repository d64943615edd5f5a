"""An audit hook (PEP 578) that refuses a submission what only an attack on a grader needs.

A hook cannot be removed from within Python. An event is laid to the nearest code on the stack that
is not the standard library's; it is refused when that code is the submission's, or was made from a
string. Libraries keep their use of the same calls.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType, ModuleType

FORBIDDEN = {
    "ctypes.dlopen": "loads native code",
    "ctypes.dlsym": "calls native code",
    "ctypes.dlsym/handle": "calls native code",
    "ctypes.call_function": "calls native code",
    "ctypes.cdata": "reads raw memory",
    "ctypes.cdata/buffer": "reads raw memory",
    "ctypes.string_at": "reads raw memory",
    "ctypes.wstring_at": "reads raw memory",
    "gc.get_objects": "walks the garbage collector's objects",
    "gc.get_referrers": "walks the garbage collector's objects",
    "gc.get_referents": "walks the garbage collector's objects",
    "sys._getframe": "walks the stack",
    "sys._current_frames": "walks the stack",
    "sys._current_exceptions": "walks the stack",
    "sys.settrace": "sets a trace function",
    "sys.setprofile": "sets a profile function",
    "sys.addaudithook": "adds an audit hook",
    "os.kill": "sends a signal",
    "os.killpg": "sends a signal",
    "signal.pthread_kill": "sends a signal",
    "code.__new__": "makes code objects",
    "function.__new__": "makes functions",
    "object.__setattr__": "changes the code of a function",
    "object.__delattr__": "changes the code of a function",
    "object.__getattr__": "walks the stack",
    "compile": "makes code that claims another file",
}
CODE = ("__code__", "__class__", "__defaults__", "__kwdefaults__", "__bases__")
FRAMES = ("tb_frame", "gi_frame", "cr_frame", "ag_frame")
LENDERS = ("inspect.py", "traceback.py")
"""Of the standard library, what hands frames to its caller; the rest only looks at them."""
CONNECTING = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind")
LOOPBACK = ("localhost", "::1", "0.0.0.0", "::", "")
MOST = 20


class Audit:
    """What was refused so far, and the stack's word on who asks.

    Parameters
    ----------
    root
        The repository: its code may do everything.
    work
        The submission's folder: its code may not.
    """

    def __init__(self, root: Path, work: Path) -> None:
        refused: list[str] = []
        mine, zygote = str(work) + os.sep, str(getattr(sys.modules["__main__"], "__file__", ""))
        trusted = (str(root) + os.sep, sys.prefix, sys.base_prefix, zygote, "<frozen ")
        name_of = os.path.basename

        def belongs(file: str) -> bool:
            return file.startswith(mine) or not file.startswith(trusted)

        def refuse(frame: FrameType, what: str) -> None:
            if len(refused) < MOST:
                refused.append(f"{name_of(frame.f_code.co_filename)}:{frame.f_lineno} {what}")

        self.belongs, self.refuse = belongs, refuse
        self.refused: Callable[[], list[str]] = lambda: list(refused)

    def install(self) -> None:
        """Add the hook, for good."""
        sys.addaudithook(_hook(self.belongs, self.refuse))

    def seal(self, modules: Iterable[ModuleType]) -> None:
        """Let no code that a submission called replace a function or class of these modules.

        What sets an attribute is refused at once, so that nothing can be put back unseen. A write
        into a module's dictionary goes past this; the comparison afterwards is for that.
        """
        belongs, refuse, frame_of = self.belongs, self.refuse, sys._getframe

        class Sealed(ModuleType):
            def __setattr__(self, name: str, value: object) -> None:
                if isinstance(vars(self).get(name), Callable):  # type: ignore[arg-type]
                    frame: FrameType | None = frame_of(1)
                    while frame is not None:
                        if belongs(frame.f_code.co_filename):
                            refuse(frame, f"replaces {self.__name__}.{name}")
                            raise PermissionError(f"{self.__name__}.{name} is sealed")
                        frame = frame.f_back
                super().__setattr__(name, value)

        for module in modules:
            if type(module) is ModuleType:
                module.__class__ = Sealed

    def block_network(self) -> None:
        """Refuse connections to other machines: where there is no network namespace."""
        refuse, frame_of = self.refuse, sys._getframe

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event in CONNECTING:
                address = arguments[1]
                host = str(address[0]) if isinstance(address, tuple) else ""
                local = isinstance(address, str | bytes) or host in LOOPBACK
                if not local and not host.startswith("127."):
                    refuse(frame_of(1), f"connects to another machine ({host[:80]})")
                    raise PermissionError("connections are refused while a submission is graded")

        sys.addaudithook(hook)


def _hook(
    belongs: Callable[[str], bool], refuse: Callable[[FrameType, str], None]
) -> Callable[[str, tuple[object, ...]], None]:
    library, packages = os.path.dirname(os.__file__) + os.sep, os.sep + "site-packages" + os.sep
    lenders = tuple(library + name for name in LENDERS)
    frame_of, forbidden = sys._getframe, dict(FORBIDDEN)
    parent, ident = os.getppid, threading.get_ident
    asking: set[int] = set()

    def guilty(frame: FrameType | None, direct: bool) -> FrameType | None:
        while frame is not None:
            file = frame.f_code.co_filename
            standard = file.startswith(library) and packages not in file
            if standard and direct and file not in lenders:
                return None
            if not standard and not file.startswith("<frozen "):
                return frame if belongs(file) else None
            frame = frame.f_back
        return None

    def harmless(event: str, arguments: tuple[object, ...]) -> bool:
        if event.startswith("object."):
            return arguments[1] not in (FRAMES if event.endswith("__getattr__") else CODE)
        if event in ("os.kill", "os.killpg"):
            return arguments[0] not in (-1, 0, 1, parent())
        if event == "compile":
            name = arguments[1]
            return isinstance(name, str) and name[:1] == "<" and not name.startswith("<frozen ")
        return False

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in forbidden:
            return
        # Named tuples and enumerations make the library look and set, on everybody's behalf.
        direct = event == "sys._getframe" or event.startswith("object.")
        thread = ident()
        if harmless(event, arguments) or thread in asking:
            return
        asking.add(thread)  # the hook's own look at the stack is an event, too
        try:
            frame = guilty(frame_of(1), direct)
        finally:
            asking.discard(thread)
        if frame is not None:
            refuse(frame, f"{forbidden[event]} ({event})")
            raise PermissionError(f"{event} is refused while a submission is graded")

    return hook
