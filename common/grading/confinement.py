"""What a process takes from itself before a submission's code runs in it (Linux).

A private root holds the system's programs and the private tree, both read-only, and an empty
``/tmp`` of limited size; nothing else of the machine is there to be read. Process ids, network and
System V IPC are its own. Where the kernel refuses a part, the rest still holds, and what is
returned says so.

Everything is a call of libc: :func:`os.unshare` came only with Python 3.12.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG = 4, 24, 38, 1
LAST_CAPABILITY = 63
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/lib32", "/sbin", "/etc", "/opt", "/sys")
DEVICES = ("null", "zero", "full", "random", "urandom")
NAMESPACES = {
    "mount": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "net": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
}

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Bind:
    """A folder or file of the machine, read-only at ``target`` in the private root."""

    source: str
    target: str


def _call(name: str, *arguments: object) -> int:
    result = int(getattr(libc, name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int) -> None:
    _call("prctl", option, value, 0, 0, 0)


def unshare(wanted: tuple[str, ...] = tuple(NAMESPACES)) -> set[str]:
    """Leave the machine's namespaces for new ones; the names of those that could be had.

    An ordinary user gets them inside a user namespace of their own. A new ``pid`` namespace holds
    only processes forked afterwards.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        try:
            _call("unshare", CLONE_NEWUSER)
        except OSError:
            return set()
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    had = {"user"} if uid else set()
    for name in wanted:
        with contextlib.suppress(OSError):
            _call("unshare", NAMESPACES[name])
            had.add(name)
    return had


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _call(
        "mount",
        source.encode(),
        target.encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )


def _bind(source: str, target: str, *, writable: bool = False) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(target, os.O_CREAT | os.O_EXCL, 0o644))
    try:
        _mount(source, target, "", MS_BIND)
    except OSError:  # in a user namespace, what is mounted below cannot be left behind
        _mount(source, target, "", MS_BIND | MS_REC)
    if not writable:
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        _mount("none", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | kept)


def _tmpfs(target: str, options: str) -> None:
    os.makedirs(target, exist_ok=True)
    _mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, options)


def enter_private_root(stage: str, binds: list[Bind], disk_mb: int, *, own_pids: bool) -> None:
    """Make a root of its own and enter it; the old one is gone afterwards.

    Parameters
    ----------
    stage
        An empty folder to build it on.
    binds
        What is there beside the system's programs, in order: a later one may lie in an earlier.
    disk_mb
        Size of ``/tmp``; ``/dev/shm`` has as much.
    own_pids
        Whether this process is the first of a pid namespace, so that ``/proc`` can be mounted.

    Raises
    ------
    OSError
        When the kernel refuses; the process must end then.
    """
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _tmpfs(stage, "size=16m,mode=755")
    for place in SYSTEM:
        if os.path.islink(place):
            os.symlink(os.readlink(place), stage + place)
        elif os.path.isdir(place):
            _bind(place, stage + place)
    sized = f"size={disk_mb}m,nr_inodes=65536,mode=1777"
    _tmpfs(f"{stage}/tmp", sized)
    for each in binds:
        _bind(each.source, stage + each.target)
    os.makedirs(f"{stage}/dev")
    for name in DEVICES:
        _bind(f"/dev/{name}", f"{stage}/dev/{name}", writable=True)
    for device in Path("/dev").glob("nvidia*"):
        _bind(str(device), f"{stage}{device}", writable=True)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{stage}/dev/{name}")
    os.symlink("/proc/self/fd", f"{stage}/dev/fd")
    _tmpfs(f"{stage}/dev/shm", sized)
    os.makedirs(f"{stage}/proc")
    try:
        if not own_pids:
            raise OSError("a proc of the machine's processes")
        _mount("proc", f"{stage}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError:
        _mount("/proc", f"{stage}/proc", "", MS_BIND | MS_REC)
    os.makedirs(f"{stage}/old")
    os.chdir(stage)
    machine = os.uname().machine
    _call("syscall", PIVOT_ROOT[machine], b".", b"old")
    os.chdir("/")
    _call("umount2", b"/old", MNT_DETACH)
    os.rmdir("/old")
    # /tmp and /dev/shm are all that can be written to
    _mount("none", "/", "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def raise_loopback() -> None:
    """Bring up ``lo`` in a new network namespace: tests of servers and ranks need it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(control, SIOCGIFFLAGS, asked + bytes(22))[:18])[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP) + bytes(22))


def limit(memory_mb: int, processes: int, file_mb: int, seconds: int) -> None:
    """Limits of this process and of each one it starts."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_DATA: memory_mb << 20,
        resource.RLIMIT_FSIZE: file_mb << 20,
        resource.RLIMIT_NOFILE: 1024,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, most in wanted.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def drop_privileges(uid: int | None) -> None:
    """Become ``uid`` (None: stay who we are), without any way back to more.

    Other processes of the same user can then neither trace this one nor read its memory.
    """
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
    with contextlib.suppress(OSError):
        for capability in range(LAST_CAPABILITY + 1):
            prctl(PR_CAPBSET_DROP, capability)
    if uid is not None:
        os.setresuid(uid, uid, uid)
    else:
        _drop_capabilities()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)


def _drop_capabilities() -> None:
    version_3 = struct.pack("Ii", 0x20080522, 0)
    with contextlib.suppress(OSError):
        _call("capset", version_3, bytes(24))


def default_signals() -> None:
    """Give every signal its default back, and unblock all."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
