"""An audit hook (PEP 578) that refuses a submission what only an attack on a grader needs.

A hook cannot be removed from within Python. An event is laid to the nearest code on the stack that
is not the standard library's; it is refused when that code is the submission's, or was made from a
string. Libraries keep their use of the same calls.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

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
MOST = 20


def install(root: Path, work: Path) -> Callable[[], list[str]]:
    """Add the hook; the function that is returned tells what was refused so far."""
    mine, library = str(work) + os.sep, os.path.dirname(os.__file__) + os.sep
    packages = os.sep + "site-packages" + os.sep
    frozen = "<frozen "
    trusted = (str(root) + os.sep, sys.prefix + os.sep, sys.base_prefix + os.sep)
    refused: list[str] = []
    frame_of, forbidden = sys._getframe, dict(FORBIDDEN)
    parent, ident = os.getppid, threading.get_ident
    asking: set[int] = set()

    lenders = tuple(library + name for name in LENDERS)

    def guilty(frame: FrameType | None, looks: bool) -> str:
        while frame is not None:
            file = frame.f_code.co_filename
            standard = file.startswith(library) and packages not in file
            if standard and looks and file not in lenders:
                return ""
            if not standard and not file.startswith(frozen):
                if file.startswith(mine) or not file.startswith(trusted):
                    return f"{os.path.basename(file)}:{frame.f_lineno}"
                return ""
            frame = frame.f_back
        return ""

    def claims_nothing(name: object) -> bool:
        return isinstance(name, str) and name.startswith("<") and not name.startswith(frozen)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in forbidden:
            return
        looks = event in ("sys._getframe", "object.__getattr__")
        if event.startswith("object.") and arguments[1] not in (FRAMES if looks else CODE):
            return
        if event in ("os.kill", "os.killpg") and arguments[0] not in (-1, 0, 1, parent()):
            return
        if event == "compile" and claims_nothing(arguments[1]):
            return
        thread = ident()
        if thread in asking:  # the hook's own look at the stack
            return
        asking.add(thread)
        try:
            place = guilty(frame_of(1), looks)
        finally:
            asking.discard(thread)
        if place:
            if len(refused) < MOST:
                refused.append(f"{place} {forbidden[event]} ({event})")
            raise PermissionError(f"{event} is refused while a submission is graded")

    sys.addaudithook(hook)
    return lambda: list(refused)
