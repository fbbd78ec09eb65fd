"""Linux' namespaces, as far as virtual hosts need them: who may have them, and how processes get into them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

CLONE_NEWPID = 0x20000000

# What the system's tools say where it has no such thing or keeps it from us, and not where we are wrong.
REFUSALS = re.compile("not permitted|not supported|denied|unknown device type|qdisc kind is unknown", re.I)


class Unavailable(Exception):
    """Why this system or this user can't have virtual hosts."""


def is_in_chroot() -> bool:
    """Entering a mount namespace, even our own, takes the namespace's root."""
    entered = subprocess.run(["nsenter", "-m", "-t", str(os.getpid()), "stat", "-c", "%d:%i", "/"],
                             capture_output=True, text=True, check=False)
    own = os.stat("/")
    return entered.returncode == 0 and entered.stdout.strip() != f"{own.st_dev}:{own.st_ino}"


def check_system() -> None:
    if sys.platform != "linux":
        raise Unavailable("virtual hosts are made of Linux' namespaces, and this is another system")
    if os.geteuid() != 0:
        raise Unavailable("virtual hosts need root, to make network namespaces")
    path = os.environ.get("PATH", os.defpath)
    if "/usr/sbin" not in path.split(":"):
        os.environ["PATH"] = f"{path}:/usr/sbin:/sbin"
    for tool in ("ip", "tc", "unshare", "nsenter", "bash"):
        if not shutil.which(tool):
            raise Unavailable(f"virtual hosts need the command {tool} (Debian's packages iproute2 and util-linux)")
    if is_in_chroot():
        raise Unavailable("virtual hosts can't be made inside a chroot: entering a mount namespace leaves it")


def failure(doing: str, said: str) -> Exception:
    """The exception for what a tool of the system said."""
    sentence = f"{doing} failed: {' / '.join(said.strip().splitlines())}"
    return Unavailable(sentence) if REFUSALS.search(said) else RuntimeError(sentence)


def enter(holder: int) -> list[str]:
    """What to put before a command for it to run in the other namespaces of the process holder."""
    return ["nsenter", "--target", str(holder), "--net", "--uts", "--ipc", "--mount", "--"]


@contextlib.contextmanager
def children_in(holder: int | None) -> Iterator[None]:
    """What this thread starts meanwhile is in the PID namespace of the process holder, or begins a new one."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int) -> None:
        if result != 0:
            raise Unavailable(f"a PID namespace was refused: {os.strerror(ctypes.get_errno())}")

    with open("/proc/self/ns/pid", "rb") as ours:
        if holder is None:
            check(libc.unshare(CLONE_NEWPID))
        else:
            with open(f"/proc/{holder}/ns/pid", "rb") as theirs:
                check(libc.setns(theirs.fileno(), CLONE_NEWPID))
        try:
            yield
        finally:
            check(libc.setns(ours.fileno(), CLONE_NEWPID))
